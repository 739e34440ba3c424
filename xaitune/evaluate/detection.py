"""How well boxes from heatmaps find the true ones: matched one to one, precision, recall and F1 of each block."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune._files import write_csv, write_json
from xaitune.errors import InputError
from xaitune.evaluate.true_boxes import TrueBoxes, boxes_of_masks, read_true_boxes
from xaitune.explain.boxes import SIDES, Boxes
from xaitune.explain.store import BOX_SCORE_FILES
from xaitune.stats.intervals import ratio_intervals, wilson_interval

IOUS = (0.25, 0.5)
SCORES = ("precision", "recall", "f1")


@dataclass(frozen=True, eq=False)
class BoxScores:
    """Scores of boxes against the true ones.

    `table`: one row per block and IoU: `precision`, `recall` and `f1`, 0..1, each with its 95 % interval (`_low`, `_high`), the
    numbers of `boxes`, of `true_boxes` and of those `found`, and of `images`. `per_image`: one row per image and block, of
    the scored images. `without_boxes` and `unknown`: images that were left out, since there is no true box in them, or since
    nothing is known of them. `classes_count`: whether a box had to be of the true box's class.
    """

    table: pd.DataFrame
    per_image: pd.DataFrame
    without_boxes: int
    unknown: int
    classes_count: bool

    def to_dataframe(self) -> pd.DataFrame:
        """One row per block and IoU."""
        return self.table

    def _repr_html_(self) -> str:
        return self.table.round(3).to_html(index=False)


def score_boxes(
    boxes: Boxes,
    *,
    masks: Sequence[np.ndarray | None] | None = None,
    true_boxes: TrueBoxes | pd.DataFrame | str | Path | None = None,
    groups: Sequence[Any] | None = None,
    iou: Sequence[float] = IOUS,
) -> BoxScores:
    """Precision, recall and F1 of the boxes of each block, where a box finds a true one if their IoU is at least `iou`.

    The true boxes are those of the `masks` (one array in the file's size per image, or None; see `boxes_of_mask`), or
    `true_boxes`: a CSV or COCO file, or a table (see `read_true_boxes`). Within an image and block, boxes are matched in the
    order of their scores, each with the free true box of the highest IoU. Where all classes of the true boxes are the
    model's, a box only finds those of the class that it explains; otherwise classes are ignored. Images without a true box
    are left out: no explanation of a class is asked to show nothing. `groups` (n,) are resampled for the intervals, images
    without them; an interval extends at least as far as Wilson's over boxes (of F1: over the mean of both numbers of boxes),
    since resamples of boxes that found nothing never find anything. Raises InputError.

    Examples:
        >>> scores = score_boxes(boxes_from_maps(maps), masks=masks, groups=groups)  # doctest: +SKIP
        >>> scores.to_dataframe()[["block", "iou", "precision", "recall", "f1"]]  # doctest: +SKIP
    """
    truth = _truth(boxes, masks, true_boxes)
    if groups is not None and len(groups) != len(truth):
        raise InputError(f"groups must hold one entry per image ({len(truth)}). Received: {len(groups)}.")
    for threshold in iou:
        if not 0 < threshold <= 1:
            raise InputError(f"iou must be above 0 and at most 1. Received: iou={threshold!r}.")
    known = set(boxes.class_names)
    given = [classes for classes in truth.classes if classes is not None]
    classes_count = bool(given) and all(name in known for classes in given for name in classes)
    count, rows = _Counter(boxes, iou), []
    for i, true in enumerate(truth.boxes):
        if true is not None and len(true):
            classes = truth.classes[i] if classes_count else None
            row = {"file": boxes.images["file"].iloc[i]} | ({} if groups is None else {"group": groups[i]})
            rows += [row | counts for counts in count(i, true, classes)]
    without = sum(true is not None and not len(true) for true in truth.boxes)
    if not rows:
        raise InputError("None of the images has a true box, so boxes cannot be scored.")
    per_image = pd.DataFrame(rows)
    table = pd.concat([_summary(per_image, block, iou) for block in boxes.blocks], ignore_index=True)
    return BoxScores(table, per_image, without, sum(true is None for true in truth.boxes), classes_count)


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(p, t) intersection over union of boxes (p, 4) and (t, 4): x, y, width, height.

    Examples:
        >>> box_iou(np.array([[0, 0, 2, 2]]), np.array([[0, 0, 2, 2], [1, 0, 2, 2], [5, 5, 1, 1]])).round(2).tolist()
        [[1.0, 0.33, 0.0]]
    """
    a, b = np.asarray(a, float)[:, None], np.asarray(b, float)[None]
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    return shared / (np.prod(a[..., 2:], axis=-1) + np.prod(b[..., 2:], axis=-1) - shared)


def match_boxes(iou: np.ndarray, threshold: float) -> np.ndarray:
    """(p,) the true box that each box finds, or -1: one to one, greedily, the first boxes first.

    `iou` (p, t): see `box_iou`; its rows in descending order of the boxes' scores.

    Examples:
        >>> match_boxes(np.array([[0.6, 0.7], [0.0, 0.9], [0.5, 0.0]]), 0.5).tolist()
        [1, -1, 0]
    """
    free, found = iou.copy(), np.full(len(iou), -1)
    for box in range(len(iou)):
        best = int(free[box].argmax()) if iou.shape[1] else -1
        if best >= 0 and free[box, best] >= threshold:
            found[box] = best
            free[:, best] = -1
    return found


def write_box_scores(folder: Path, scores: BoxScores) -> list[Path]:
    """Write box-scores.csv (one row per image and block) and box-scores.json (one per block); returns their paths."""
    table, about = (folder / name for name in BOX_SCORE_FILES)
    write_csv(table, scores.per_image)
    left_out = {"without_a_true_box": scores.without_boxes, "unknown": scores.unknown}
    write_json(about, {"left_out": left_out, "classes_count": scores.classes_count, "scores": records(scores.table)})
    return [table, about]


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, with None for NaN, as JSON takes them."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _truth(boxes: Boxes, masks: Any, true_boxes: Any) -> TrueBoxes:
    if (masks is None) == (true_boxes is None):
        raise InputError("Give either masks or true_boxes.")
    if masks is None:
        truth = true_boxes
        if not isinstance(truth, TrueBoxes):
            truth = read_true_boxes(truth, list(boxes.images["file"]))
    else:
        for i, mask in enumerate(masks[: len(boxes.images)]):
            if mask is not None and np.shape(mask) != boxes.size(i):
                raise InputError(
                    f"The mask of {boxes.images['file'].iloc[i]} must have its image's size {boxes.size(i)}. "
                    f"Received: {np.shape(mask)}."
                )
        truth = boxes_of_masks(masks)
    if len(truth) != len(boxes.images):
        raise InputError(f"There must be one entry per image ({len(boxes.images)}). Received: {len(truth)}.")
    return truth


class _Counter:
    """(image, its true boxes (k, 4), their classes or None) -> per block: boxes, true ones, best IoU, found at each IoU."""

    def __init__(self, boxes: Boxes, ious: Sequence[float]) -> None:
        table = boxes.table.sort_values("score", ascending=False, kind="stable")
        self.blocks, self.ious = boxes.blocks, ious
        self.rows_of = table.groupby(["image", "block"]).indices  # each in descending order of the scores
        self.sides, self.classes = table[SIDES].to_numpy(float), table["class"].to_numpy()

    def __call__(self, image: int, true: np.ndarray, classes: tuple[str, ...] | None) -> list[dict[str, Any]]:
        counts = []
        for block in self.blocks:
            own = self.rows_of.get((image, block), np.zeros(0, int))
            iou = box_iou(self.sides[own], true)
            if classes is not None:
                iou = np.where(self.classes[own][:, None] == np.array(classes)[None], iou, 0)
            row = {"block": block, "boxes": len(own), "true_boxes": len(true), "best_iou": iou.max(initial=0)}
            counts.append(row | {f"found_at_{t:g}": int((match_boxes(iou, t) >= 0).sum()) for t in self.ious})
        return counts


def _summary(per_image: pd.DataFrame, block: int, ious: Sequence[float]) -> pd.DataFrame:
    """One row per IoU of one block."""
    rows = per_image[per_image["block"] == block]
    groups = rows["group"].to_numpy() if "group" in rows else None
    boxes, true = rows["boxes"].to_numpy(float), rows["true_boxes"].to_numpy(float)
    summary = []
    for threshold in ious:
        found = rows[f"found_at_{threshold:g}"].to_numpy(float)
        tops, bottoms = np.stack([found, found, 2 * found], 1), np.stack([boxes, true, boxes + true], 1)
        row: dict[str, Any] = {"block": block, "iou": threshold}
        wilson = [_wilson(found.sum(), number) for number in (boxes.sum(), true.sum(), (boxes + true).sum() / 2)]
        for name, value, low, high, bounds in zip(SCORES, *ratio_intervals(tops, bottoms, groups), wilson, strict=True):
            low, high = np.fmin(low, bounds[0]), np.fmax(high, bounds[1])
            row |= {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
        numbers = {"boxes": boxes.sum(), "true_boxes": true.sum(), "found": found.sum(), "images": len(rows)}
        summary.append(row | {name: int(number) for name, number in numbers.items()})
    return pd.DataFrame(summary)


def _wilson(found: float, number: float) -> tuple[float, float]:
    """Wilson's interval of `found` of a number of boxes; NaN for none."""
    return wilson_interval(round(found), math.ceil(number)) if number else (math.nan, math.nan)
