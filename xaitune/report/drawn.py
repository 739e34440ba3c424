"""Test images of a run with their maps at all blocks by every weighting rule, for the page's viewer."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune._progress import Progress, part_of
from xaitune.config.choices import IGNORED
from xaitune.data.dataset import ImageData
from xaitune.data.pixel_labels import PixelLabels
from xaitune.evaluate.reliability import check_maps
from xaitune.explain.classifier import Classifier, open_classifier
from xaitune.explain.gradcam import BlockMapper, BlockMaps, RulesMapper, as_heatmaps, model_for_maps
from xaitune.explain.heatmaps import own_picture, unit_view
from xaitune.models.batches import images_at_once
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

Mapper = Callable[
    [np.ndarray, np.ndarray], tuple[dict[str, BlockMaps], np.ndarray]
]  # images and classes -> maps, logits
Views = dict[str, dict[int, np.ndarray]]  # rule -> block -> (h, w) in [0, 1]

MOST_SHARES = 3  # classes whose probability is shown


def viewed_images(
    runs: Run | Sequence[Run], data: ImageData, *, checked: bool = False, progress: Progress | None = None
) -> Viewed | None:
    """The test images that the viewer shows, of a run, or of the runs of one training in all folds; None without predictions.

    Each image is shown with the maps of the run that tested it. They are of the predicted class and, where it is wrong, also of
    the true one. Of a segmentation they are of the pixels that are predicted as its largest class. `checked`: whether the
    Grad-CAM maps are checked (`evaluate.reliability.check_maps`), which costs about 60 forward passes an image.
    """
    runs = [runs] if isinstance(runs, Run) else list(runs)
    if not all(len(run.predictions) for run in runs):
        return None
    tables = [run.predictions[run.predictions["split"] == "test"].assign(run=i) for i, run in enumerate(runs)]
    test = pd.concat(tables, ignore_index=True)
    chosen = test.iloc[choose_viewed(test, runs[0].class_names)]
    made: dict[str, ViewedImage] = {}
    drawers = [_Drawer(runs[number], data) for number in sorted(set(chosen["run"]))]
    blocks = min((drawer.blocks for drawer in drawers), key=len)  # a linear head on one block ends there, in each fold
    for drawer in drawers:
        drawer.blocks = blocks
        rows = chosen[chosen["run"] == runs.index(drawer.run)]
        steps = part_of(progress, len(made) / len(chosen), (len(made) + len(rows)) / len(chosen))
        made |= {image.file: image for image in drawer(rows, checked, steps)}
    seen = f"{data.image_size[0]} x {data.image_size[1]} pixels ({'padded' if data.config.resize == 'pad' else 'stretched'})"
    folds = len(runs) if len(runs) > 1 else 0
    images = within_budget([made[file] for file in chosen["file"]])
    return Viewed(runs[0].name, tuple(runs[0].class_names), blocks, images, len(test), seen, folds)


class _Drawer:
    """Rows of a run's predictions -> the images of the viewer."""

    def __init__(self, run: Run, data: ImageData) -> None:
        self.run, self.data, self.masks = run, data, _Masks(run, data)
        self.classifier = open_classifier(run)
        self.mapper = RulesMapper(model_for_maps(self.classifier.model)[0])
        self.blocks = self.mapper.blocks
        self.rows = {file: i for i, file in enumerate(data.files)}
        self.numbers = {name: i for i, name in enumerate(run.class_names)}

    def __call__(self, test: pd.DataFrame, checked: bool, progress: Progress | None) -> list[ViewedImage]:
        """The images of these rows, with the steps that `progress` counts."""
        mapping, checking = (part_of(progress, *part) for part in ((0.0, 0.1 if checked else 1.0), (0.1, 1.0)))
        images: list[ViewedImage] = []
        size = images_at_once(*self.data.image_size)
        for start in range(0, len(test), size):
            if mapping:
                mapping(start, len(test), f"maps of image {start + 1} of {len(test)}{self._of_fold()}")
            images += self._drawn(test.iloc[start : start + size])
        return self._checked(images, checking) if checked else images

    def _of_fold(self) -> str:
        return f" in fold {self.run.data_config.fold.replace('/', ' of ')}" if self.run.data_config.fold else ""

    def _drawn(self, test: pd.DataFrame) -> list[ViewedImage]:
        true, predicted = (test[column].map(self.numbers).to_numpy(np.int32) for column in ("true", "predicted"))
        places = np.array([self.rows[file] for file in test["file"]], int)
        paths = [Path(path) for path in self.data.paths(places)]
        array = self.classifier.read_paths(paths)
        explained, views = _explained(self.classifier, self._maps, array, true, predicted)
        ious, images = image_ious(test), []
        for i, path in enumerate(paths):
            picture = own_picture(str(path), array[i], self.classifier.bit_depth, LONGEST_PICTURE)
            pixels, row = np.clip(np.rint(picture), 0, 255).astype(np.uint8), test.iloc[i]
            shares = [f"p({name})" for name in self.run.class_names]
            about: dict[str, Any] = {
                "true": int(true[i]),
                "predicted": int(predicted[i]),
                "explained": int(explained[i]),
            }
            about |= _drawn(pixels, views[i], self.masks(int(places[i])), self.classifier)
            about["iou"] = float(ious[i]) if np.isfinite(ious[i]) else None
            about["shares"] = _largest(None if self.run.config.segments else row[shares].to_numpy(float))
            images.append(
                ViewedImage(file=row["file"], fold=(self.run.data_config.fold or "").partition("/")[0], **about)
            )
        return images

    def _maps(self, images: np.ndarray, classes: np.ndarray) -> tuple[dict[str, BlockMaps], np.ndarray]:
        """The raw maps of the blocks that are shown by rule, and the logits."""
        raw, logits = self.mapper(images, classes)
        return {rule: {block: maps[block] for block in self.blocks} for rule, maps in raw.items()}, logits

    def _checked(self, images: list[ViewedImage], progress: Progress | None) -> list[ViewedImage]:
        """The images with what speaks against the Grad-CAM map of the predicted class at each block, in words."""
        files = [image.file for image in images]
        array = self.classifier.read_paths([Path(p) for p in self.data.paths(np.array([self.rows[f] for f in files]))])
        model, precision = model_for_maps(self.classifier.model)
        raw, logits = BlockMapper(model)(array, np.full(len(array), -1, np.int32))
        maps = as_heatmaps(self.classifier, "gradcam", raw, logits, array, tuple(files), -1, precision=precision)
        checks = check_maps(maps, self.classifier, progress=progress)
        doubts = [tuple("; ".join(checks.of_map(i, block)) for block in self.blocks) for i in range(len(images))]
        return [dataclasses.replace(image, doubts=doubt) for image, doubt in zip(images, doubts, strict=True)]


def _explained(
    classifier: Classifier, mapper: Mapper, images: np.ndarray, true: np.ndarray, predicted: np.ndarray
) -> tuple[np.ndarray, list[tuple[Views, Views]]]:
    """Each image's explained class, and its maps of that class and of the true one, where it is another."""
    if classifier.segmenter is not None:
        raw, logits = mapper(images, np.full_like(predicted, -1))
        return logits.argmax(axis=1), [(_views(raw, i), {}) for i in range(len(images))]
    raw, _ = mapper(images, predicted)
    wrong = np.flatnonzero(true != predicted)
    of_true = mapper(images[wrong], true[wrong])[0] if len(wrong) else {}
    place = {image: n for n, image in enumerate(wrong.tolist())}
    return predicted, [(_views(raw, i), _views(of_true, place[i]) if i in place else {}) for i in range(len(images))]


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
