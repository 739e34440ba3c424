"""An earlier explanation made again from its explain.json, and how far it has moved."""

import dataclasses
import html
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from xaitune._files import read_json
from xaitune._names import plural
from xaitune._progress import Progress, shown_progress
from xaitune.config.explain_settings import ExplainOptions, LimeOptions
from xaitune.errors import ImageError, ModelError, RunError, XaituneWarning
from xaitune.explain.api import CHUNK, Explanation, iter_explanations, make_explainer
from xaitune.explain.classifier import Classifier, open_classifier
from xaitune.explain.heatmaps import BlockHeatmaps
from xaitune.explain.provenance import file_digest, versions, weights_digest
from xaitune.explain.store import load_heatmaps
from xaitune.models.vgg import IMAGENET, imagenet_classifier

SAME_BITS, SAME, MOVED = "the same bits", "the same within rounding", "moved"
# Largest difference that counts as rounding, as a share of a map's largest absolute value. Why: docs/method.md.
ROUNDING = {"float32": 1e-3, "bfloat16": 0.2}


@dataclasses.dataclass(frozen=True, eq=False)
class Verification:
    """How far an explanation, made again, is from what its explain.json `file` stands for.

    `table`: one row per image and block ('superpixels' for LIME): file, block, class, class_now, spearman (-1..1 over the
    pixels of both maps; NaN where one is constant), largest_difference (of raw maps, as a share of the earlier one's largest
    absolute value), verdict (SAME_BITS, SAME or MOVED). `tolerance`: the largest difference that counts as rounding.
    `changed`: what is not as it was, one phrase for the model, the images and the versions each.
    """

    file: Path
    table: pd.DataFrame
    tolerance: float
    changed: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The worst of all maps."""
        found = set(self.table["verdict"])
        return next(verdict for verdict in (MOVED, SAME, SAME_BITS) if verdict in found)

    def sentence(self) -> str:
        """The verdict, how far the maps have moved, and what has changed."""
        maps, moved = len(self.table), self.table[self.table["verdict"] == MOVED]
        changed = (
            f"Changed since: {'; '.join(self.changed)}."
            if self.changed
            else "Model, images and versions are unchanged."
        )
        if len(moved):
            what = (
                f"{len(moved):,} of {plural(maps, 'map')} moved by more than {self.tolerance:g} of their largest value, the "
                f"most by {moved['largest_difference'].max():.2g} (lowest Spearman {moved['spearman'].min():.3f})"
            )
        else:
            what = f"{plural(maps, 'map')}: {self.verdict} (largest difference {self.table['largest_difference'].max():.2g})"
        return f"{what}. {changed}"

    def to_dataframe(self) -> pd.DataFrame:
        """The table."""
        return self.table

    def _repr_html_(self) -> str:
        worst = self.table.sort_values("largest_difference", ascending=False).head(20)
        return f"<p>{html.escape(self.sentence())}</p>{worst.to_html(index=False, float_format='{:.3g}'.format)}"


def verify_explanation(file: str | Path, model: Any = None, *, progress: Progress | None = None) -> Verification:
    """Make the explanation of an explain.json (or of its folder) again, and say how far it has moved.

    The options, the seed, the precision and the batches are those of the file. `model`: as in `open_classifier`, where it is
    no longer at the place that the file names. A changed image, model or version is named, and the maps are compared all the
    same. Raises RunError for a file that does not say what it was made from, ImageError or ModelError for an image or the
    model that is no longer there.

    Examples:
        >>> verify_explanation("runs/explain").sentence()  # doctest: +SKIP
    """
    path = Path(file) / "explain.json" if Path(file).is_dir() else Path(file)
    about = read_json(path)
    if "made_from" not in about:
        raise RunError(
            f"{path} does not say what it was made from, as an earlier version wrote it. Explain the images again."
        )
    made = about["made_from"]
    paths = [Path(image["file"]) for image in made["images"]]
    _require_files(path, paths)
    changed = _changed_images(made["images"])
    classifier = dataclasses.replace(_open(path, about, model), bit_depth=about.get("bit_depth"))
    if weights_digest(classifier.model) != made["model_sha256"]:
        changed.insert(0, f"the model's weights ({classifier.name})")
    now = versions()
    differing = [name for name in sorted({*now, *made["versions"]}) if now.get(name) != made["versions"].get(name)]
    changed += [f"{n} {made['versions'].get(n, 'missing')} -> {now.get(n, 'missing')}" for n in differing]

    options = ExplainOptions(**made["options"] | {"precision": about["precision"]})
    lime: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in made.get("lime", {}).items()}
    size = 1 if options.method == "lime" else CHUNK
    explainer = make_explainer(classifier, options, LimeOptions(**lime))
    progress, rows, before = shown_progress(progress, "verifying"), [], _stored(path, about)
    tolerance = ROUNDING[about["precision"]]
    for number, explanation in enumerate(iter_explanations(classifier, paths, explainer, size), 1):
        for name, block, class_now, raw in _maps_of(explanation):
            class_name, earlier = before[name, block]
            row = {"file": name, "block": block, "class": class_name, "class_now": class_now}
            rows.append(row | _compare(earlier, raw, tolerance, class_name == class_now))
        if progress:
            progress(min(number * size, len(paths)), len(paths), "images")
    return Verification(path, pd.DataFrame(rows), tolerance, tuple(changed))


def _require_files(path: Path, images: list[Path]) -> None:
    missing = [image for image in images if not image.is_file()]
    if missing:
        raise ImageError(
            f"{len(missing)} of {plural(len(images), 'image')} of {path} not found, the first: {missing[0]}. Call it in the "
            "folder where the explanation was made."
        )


def _changed_images(images: list[dict[str, str]]) -> list[str]:
    """The phrase that names the images whose content is not as it was; nothing without any."""
    changed = [image["file"] for image in images if file_digest(Path(image["file"])) != image["sha256"]]
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return [f"{plural(len(changed), 'image')} ({', '.join(changed[:3])}{more})"] if changed else []


def _open(path: Path, about: dict[str, Any], model: Any) -> Classifier:
    """The model that is given, else that of the file. Raises ModelError."""
    if model is None and about["model"] == IMAGENET:
        network, names = imagenet_classifier()
        return Classifier(network, tuple(names), name=IMAGENET)
    if model is None and not Path(about["model"]).exists():
        raise ModelError(f"The model of {path} is not at {about['model']} any more. Name it with --model PATH.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", XaituneWarning)  # about the preprocessing, said when it was explained first
        return open_classifier(model or about["model"], **about["made_from"]["opening"])


def _maps_of(explanation: Explanation) -> Iterator[tuple[str, Any, str, np.ndarray]]:
    """(file, block, explained class, raw map) of each map; LIME's are the weights of the pixels' superpixels."""
    for i, name in enumerate(explanation.files):
        if isinstance(explanation, BlockHeatmaps):
            for block in explanation.blocks:
                yield name, block, explanation.explained(i), explanation.raw[block][i]
        else:
            yield name, "superpixels", explanation.explained(i), explanation.signed_map(i)


def _stored(path: Path, about: dict[str, Any]) -> dict[tuple[str, Any], tuple[str, np.ndarray]]:
    """(file, block) -> (explained class, raw map), as they are beside the file. Raises RunError."""
    if about["method"] != "lime":
        return {
            (name, block): (class_name, raw) for name, block, class_name, raw in _maps_of(load_heatmaps(path.parent))
        }
    names, found = [image["file"] for image in about["made_from"]["images"]], {}
    try:
        with np.load(path.parent / "heatmaps.npz", allow_pickle=False) as archive:
            for i, name in enumerate(names):  # one image a batch
                index = int(archive[f"classes/{i:05d}"][0])
                weights = archive[f"class_weights/{i:05d}"][:, index]
                found[name, "superpixels"] = about["class_names"][index], weights[archive[f"segments/{i:05d}"][0]]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{path.parent / 'heatmaps.npz'} is missing or damaged ({error}).") from None
    return found


def _compare(before: np.ndarray, now: np.ndarray, tolerance: float, same_class: bool) -> dict[str, Any]:
    """Spearman, largest difference and verdict of one map; maps of other shapes or classes have moved."""
    if before.shape != now.shape:
        return {"spearman": np.nan, "largest_difference": np.nan, "verdict": MOVED}
    ranks = [rankdata(values) - (values.size + 1) / 2 for values in (before.ravel(), now.ravel())]
    norm = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    peak, apart = np.abs(before).max(), np.abs(before.astype(float) - now).max()
    difference = 0.0 if apart == 0 else float(apart / peak) if peak > 0 else np.inf
    same = SAME_BITS if np.array_equal(before, now) else SAME if difference <= tolerance else MOVED
    spearman = float(ranks[0] @ ranks[1] / norm) if norm > 0 else np.nan
    return {"spearman": spearman, "largest_difference": difference, "verdict": same if same_class else MOVED}
