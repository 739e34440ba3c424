"""What the commands that ask a model about images are given: image files, and a model that may not scale them."""

from pathlib import Path
from typing import Any

from xaitune._names import plural
from xaitune.cli.console import Ui
from xaitune.errors import ImageError


def readable_images(ui: Ui, images: list[Path], bit_depth: int | None) -> list[Path]:
    """The files behind `images`, having decoded each: a few unreadable ones among many are named and left out."""
    from xaitune.data.checks import unused_bits
    from xaitune.data.images import IMAGE_SUFFIXES, check_pixels, expand_images, read_bytes
    from xaitune.data.masks import masks_among
    from xaitune.data.walk import counted, endings, walk_files

    paths = expand_images(images)
    masks = [path for path in masks_among(paths) if path not in images]
    if masks:
        ui.say(f"{plural(len(masks), 'mask')} among the images left out, the first: {masks[0]}")
        paths = [path for path in paths if path not in masks]
    unread = endings(file for folder in images if folder.is_dir() for file in walk_files(folder, ImageError))
    for suffix in IMAGE_SUFFIXES:
        unread.pop(suffix, None)
    if unread:
        ui.say(f"Files that are no images were passed over: {counted(unread)}")
    good, bad, values = [], [], []
    for path in paths:
        try:
            values.append(check_pixels(read_bytes(path), path, bit_depth))
            good.append(path)
        except ImageError as error:
            bad.append(error)
    used = [value for value in values if value is not None]
    if used and bit_depth is None and (dark := unused_bits(min(used)[0], max(high for _, high in used))):
        ui.warn(dark)
    if bad and (not good or len(bad) > max(3, len(paths) // 20)):
        more = f" ({len(bad)} of {len(paths)} images cannot be used.)" if len(bad) > 1 else ""
        raise ImageError(f"{bad[0]}{more}")
    for problem in bad:
        ui.warn(f"Skipped: {problem}")
    return good


def say_scaling(ui: Ui, classifier: Any, paths: list[Path]) -> None:
    """Say what a model of the user's own is asked, and warn, with evidence, where nothing scales its images."""
    if classifier.labels:
        ui.say(
            "The model's classes are labels (sigmoids): each has a probability of its own, and they do not add up to 1."
        )
    if classifier.scaled or classifier.preprocess != "auto":
        return
    from xaitune.explain.scaling import MOST_IMAGES, scaling_evidence

    evidence = scaling_evidence(classifier, classifier.read_paths(paths[:MOST_IMAGES]))
    likely = evidence[evidence["classes"] == evidence["classes"].max()]
    likely = likely[likely["spread"] >= likely["spread"].max() / 2]
    clear = len(paths) > 1 and evidence["classes"].max() > 1 and "none" not in likely.index
    hint = f" On these images its answers vary most under {' and '.join(likely.index)}." if clear else ""
    evidence.columns = ["mean top probability", "classes on top", "spread over images"]
    count = plural(min(len(paths), MOST_IMAGES), "image")
    ui.table(evidence, f"What {classifier.name} answers on {count} under each preprocessing")
    ui.warn(
        f"{classifier.name} does not scale its images, and gets them as 0..255. If they were preprocessed outside the model in "
        "training, name how with --preprocess; a model that gets values of another range often gives every image the same "
        f"class, with a probability of 1.{hint} --preprocess none if they were not."
    )
