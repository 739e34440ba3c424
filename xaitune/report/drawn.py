"""Test images of a run with their maps at all blocks by every weighting rule, for the page's viewer."""

from pathlib import Path
from typing import Any

import numpy as np

from xaitune._progress import Progress
from xaitune.config.choices import IGNORED
from xaitune.data.dataset import ImageData
from xaitune.data.pixel_labels import PixelLabels
from xaitune.evaluate.reliability import check_maps
from xaitune.explain.classifier import Classifier, open_classifier
from xaitune.explain.gradcam import BlockMapper, BlockMaps, RulesMapper, as_heatmaps, model_for_maps
from xaitune.explain.heatmaps import own_picture, unit_view
from xaitune.report.viewer import (
    LONGEST_PICTURE,
    Viewed,
    ViewedImage,
    choose_viewed,
    image_ious,
    map_sheet,
    mask_outline,
    picture_uri,
    within_budget,
)
from xaitune.training.run import Run

Views = dict[str, dict[int, np.ndarray]]  # rule -> block -> (h, w) in [0, 1]

MOST_SHARES = 3  # classes whose probability is shown


def viewed_images(
    run: Run, data: ImageData, *, checked: bool = False, progress: Progress | None = None
) -> Viewed | None:
    """The run's test images that the viewer shows; None for a run without predictions.

    Their maps are of the predicted class and, where it is wrong, also of the true one. Of a segmentation they are of the pixels
    that are predicted as its largest class. `checked`: whether the Grad-CAM maps are checked (`evaluate.reliability.check_maps`),
    which costs about 60 forward passes an image.
    """
    if not len(run.predictions):
        return None
    test = run.predictions[run.predictions["split"] == "test"]
    test = test.iloc[choose_viewed(test, run.class_names)]
    number, rows = {name: i for i, name in enumerate(run.class_names)}, {file: i for i, file in enumerate(data.files)}
    true, predicted = (test[column].map(number).to_numpy(np.int32) for column in ("true", "predicted"))
    places = np.array([rows[file] for file in test["file"]], int)
    paths = [Path(path) for path in data.paths(places)]
    classifier = open_classifier(run)
    array = classifier.read_paths(paths)
    blocks, explained, views = _explained(classifier, array, true, predicted)
    masks, ious, images = _Masks(run, data), image_ious(test), []
    doubts = _doubts(classifier, array, test["file"].tolist(), progress) if checked else [()] * len(array)
    for i, path in enumerate(paths):
        picture = own_picture(str(path), array[i], classifier.bit_depth, LONGEST_PICTURE)
        pixels = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
        row = test.iloc[i]
        shares = None if run.config.segments else row[[f"p({name})" for name in run.class_names]].to_numpy(float)
        iou = float(ious[i]) if np.isfinite(ious[i]) else None
        about: dict[str, Any] = {"true": int(true[i]), "predicted": int(predicted[i]), "explained": int(explained[i])}
        about |= _drawn(pixels, views[i], masks(int(places[i])), classifier)
        images.append(ViewedImage(file=row["file"], shares=_largest(shares), iou=iou, doubts=doubts[i], **about))
    tested = int((run.predictions["split"] == "test").sum())
    seen = f"{data.image_size[0]} x {data.image_size[1]} pixels ({'padded' if data.config.resize == 'pad' else 'stretched'})"
    fold = run.data_config.fold or ""
    return Viewed(run.name, tuple(run.class_names), blocks, within_budget(images), tested, seen, fold)


def _explained(
    classifier: Classifier, images: np.ndarray, true: np.ndarray, predicted: np.ndarray
) -> tuple[tuple[int, ...], np.ndarray, list[tuple[Views, Views]]]:
    """The blocks, each image's explained class, and its maps of that class and of the true one, where it is another."""
    mapper = RulesMapper(model_for_maps(classifier.model)[0])
    if classifier.segmenter is not None:
        raw, logits = mapper(images, np.full_like(predicted, -1))
        return mapper.blocks, logits.argmax(axis=1), [(_views(raw, i), {}) for i in range(len(images))]
    raw, _ = mapper(images, predicted)
    wrong = np.flatnonzero(true != predicted)
    of_true = mapper(images[wrong], true[wrong])[0] if len(wrong) else {}
    place = {image: n for n, image in enumerate(wrong.tolist())}
    views = [(_views(raw, i), _views(of_true, place[i]) if i in place else {}) for i in range(len(images))]
    return mapper.blocks, predicted, views


def _doubts(
    classifier: Classifier, images: np.ndarray, files: list[str], progress: Progress | None
) -> list[tuple[str, ...]]:
    """For each image and block what speaks against the Grad-CAM map of the predicted class, in words."""
    model, precision = model_for_maps(classifier.model)
    raw, logits = BlockMapper(model)(images, np.full(len(images), -1, np.int32))
    maps = as_heatmaps(classifier, "gradcam", raw, logits, images, tuple(files), -1, precision=precision)
    checks = check_maps(maps, classifier, progress=progress)
    return [tuple("; ".join(checks.of_map(i, block)) for block in checks.blocks) for i in range(len(images))]


def _views(raw: dict[str, BlockMaps], image: int) -> Views:
    """The [0, 1] views of one image's maps by rule and block."""
    return {rule: {b: unit_view(maps[b][image : image + 1])[0] for b in sorted(maps)} for rule, maps in raw.items()}


def _largest(shares: np.ndarray | None) -> tuple[tuple[int, float], ...]:
    """(class, probability) of the most probable classes; none without probabilities."""
    if shares is None:
        return ()
    return tuple((int(c), float(shares[c])) for c in np.argsort(-shares, kind="stable")[:MOST_SHARES])


def _drawn(
    picture: np.ndarray, views: tuple[Views, Views], mask: np.ndarray | None, classifier: Classifier
) -> dict[str, Any]:
    """What is drawn of one image: its picture, its maps of two classes, the blocks without evidence, and its mask's outline."""
    size = (picture.shape[1], picture.shape[0])
    frame = (size, classifier.image_size, classifier.resize)
    sheets = [{rule: map_sheet(list(view.values()), *frame) for rule, view in of.items()} for of in views]
    empty = [{rule: tuple(b for b in view if not view[b].any()) for rule, view in of.items()} for of in views]
    return {
        "size": size,
        "picture": picture_uri(picture),
        **dict(zip(("maps", "true_maps", "empty", "true_empty"), (*sheets, *empty), strict=True)),
        "outline": () if mask is None else mask_outline(mask, size),
    }


class _Masks:
    """The number of an image -> what its mask marks, (h, w) bool, or None."""

    def __init__(self, run: Run, data: ImageData) -> None:
        self.data, self.labels = data, PixelLabels(data) if run.config.segments else None

    def __call__(self, index: int) -> np.ndarray | None:
        if self.labels is None:
            return self.data.mask(index)
        labels = self.labels.read(index)
        return (labels > 0) & (labels != IGNORED)
