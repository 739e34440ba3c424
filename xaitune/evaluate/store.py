"""Scores of explanations on disk: the masks and groups of image files, and scores.csv, scores.json and scores.png."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune import _files
from xaitune._progress import Progress
from xaitune.data.images import image_header
from xaitune.data.listing import Listing, nfc, resolve_groups
from xaitune.data.mask_values import read_marked
from xaitune.data.masks import find_masks
from xaitune.errors import DataError
from xaitune.evaluate.table import (
    FILL,
    ROAD_PERCENTAGES,
    Explanation,
    Scorer,
    measure_costs,
    plan_effort,
    summarise,
)
from xaitune.explain.classifier import Classifier
from xaitune.explain.heatmaps import BlockHeatmaps
from xaitune.explain.store import SCORE_FILES
from xaitune.plots import block_charts, figures


def masks_of(paths: Sequence[Path], folder: str | Path) -> list[Path | None]:
    """The mask file of each image by class folder and stem, as in a data set. Raises DataError where none fits."""
    return find_masks(_listing(paths, 3), Path(folder))


def groups_of(paths: Sequence[Path], rule: str | Path) -> list[str]:
    """The group of each image, from a CSV `file,group` (file: <class>/<name>) or a regular expression. Raises DataError."""
    return resolve_groups(_listing(paths, 2), str(rule))


def _listing(paths: Sequence[Path], levels: int) -> Listing:
    """The images as files relative to a folder `levels` above them, with the name of their parent folder as class."""
    full = [path.absolute() for path in paths]
    root = Path(os.path.commonpath([path.parents[min(levels, len(path.parents)) - 1] for path in full]))
    files, classes = [path.relative_to(root).as_posix() for path in full], [nfc(path.parent.name) for path in full]
    blank = [""] * len(full)
    return Listing(root, files, classes, blank, blank, sorted(set(classes)))


def read_masks(
    files: Sequence[str],
    masks: Sequence[Path | None],
    pixel_classes: str | None = None,
    explained: Sequence[str | None] | None = None,
) -> list[np.ndarray | None]:
    """Each image's mask in the file's own geometry, (h, w) bool, or None. Raises DataError where the sizes differ.

    `pixel_classes`: what the values in the masks mean; then only the pixels of each image's `explained` class are marked, where
    it is one of the pixels' classes.
    """
    names = explained or [None] * len(files)

    def read(file: str, path: Path, name: str | None) -> np.ndarray:
        mask, header = read_marked(path, pixel_classes, name), image_header(file)
        if mask.shape != (header.height, header.width):
            raise DataError(
                f"The mask {path} has {mask.shape[0]} x {mask.shape[1]} pixels, its image {file} "
                f"{header.height} x {header.width}. They must be equal."
            )
        return mask

    each = zip(files, masks, names, strict=True)
    return [None if path is None else read(file, path, name) for file, path, name in each]


class FolderScorer:
    """Scores the explanations of `total` image files batch by batch; `effort` is the planned use of the model.

    `first`: the first batch of explanations, on which a network call is timed. `masks` and `groups` have one entry per
    file; `pixel_classes` as in `read_masks`; `images` and `steps` as in `plan_effort`.
    """

    def __init__(
        self,
        classifier: Classifier,
        first: Explanation,
        total: int,
        *,
        masks: Sequence[Path | None] | None = None,
        groups: Sequence[str] | None = None,
        pixel_classes: str | None = None,
        images: int | None = None,
        steps: int | None = None,
    ) -> None:
        self.classifier, self.masks, self.groups, self.pixel_classes = classifier, masks, groups, pixel_classes
        blocks = first.blocks if isinstance(first, BlockHeatmaps) else ()
        costs = measure_costs(classifier, first.images[:2])
        self.effort = plan_effort(total, len(blocks) or 1, costs, stable=bool(blocks), images=images, steps=steps)
        self.scorer = Scorer(total, self.effort.images)
        self.seconds = 0.0

    def add(self, explanation: Explanation) -> None:
        """Compute the scores of the next files that need no model."""
        rows = slice(self.scorer.seen, self.scorer.seen + len(explanation))
        masks = None
        if self.masks is not None:
            explained = [explanation.explained(i) for i in range(len(explanation))]
            masks = read_masks(explanation.files, self.masks[rows], self.pixel_classes, explained)
        self.scorer.add(explanation, masks, None if self.groups is None else self.groups[rows])

    def finish(self, progress: Progress | None = None) -> pd.DataFrame:
        """The table of `score_maps`, with the scores that query the model for the sample of images."""
        start = time.monotonic()
        table = self.scorer.finish(self.classifier, self.effort.steps, progress)
        self.seconds = time.monotonic() - start
        return table

    def about(self, table: pd.DataFrame) -> dict[str, Any]:
        """What the scores are based on: images, groups, masks, and the use of the model."""
        images = self.scorer.seen
        about: dict[str, Any] = {"images": images, "groups": len(set(self.groups)) if self.groups else None}
        if self.masks is not None:
            area = table["mask_area"].to_numpy().reshape(images, -1)[:, 0]
            about["masks"] = {"images": int((~np.isnan(area)).sum()), "empty": int((area == 0).sum())}
        effort = {"images": self.effort.images, "steps": self.effort.steps, "fill": FILL}
        effort |= {"road_percentages": ROAD_PERCENTAGES, "network_calls": self.scorer.calls, "seconds": self.seconds}
        return about | {"asked_of_the_model": effort}


def write_scores(folder: Path, table: pd.DataFrame, about: dict[str, Any]) -> tuple[pd.DataFrame, list[Path]]:
    """Write scores.csv, scores.json and, for several blocks, scores.png; returns the summary and the paths written."""
    summary = summarise(table)
    _files.write_csv(folder / SCORE_FILES[0], table)
    rows = summary.astype(object).where(summary.notna(), None).to_dict("records")
    _files.write_json(folder / SCORE_FILES[1], {**about, "scores": rows})
    wrote = [folder / SCORE_FILES[0], folder / SCORE_FILES[1]]
    if summary["block"].nunique() > 1:
        wrote.append(figures.save(block_charts.block_scores(summary), folder / SCORE_FILES[2]))
    return summary, wrote
