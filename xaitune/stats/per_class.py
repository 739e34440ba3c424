"""Precision, recall and F1 of each class, with intervals over groups."""

from dataclasses import dataclass

import numpy as np

from xaitune.stats.intervals import wilson_interval
from xaitune.stats.resampling import bootstrap_weights

DRAWS = 1000


@dataclass(frozen=True, eq=False)
class ClassScore:
    """One score of every class: `value`, `low` and `high`, (classes,) each; NaN where the score is undefined."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, eq=False)
class PerClass:
    """Scores of every class, and the numbers of `images` and `groups`, (classes,) each, that they are based on.

    `iou`: of the pixels of a segmentation; None of classified images.
    """

    precision: ClassScore
    recall: ClassScore
    f1: ClassScore
    images: np.ndarray
    groups: np.ndarray
    iou: ClassScore | None = None


def per_class_intervals(true: np.ndarray, predicted: np.ndarray, groups: np.ndarray, num_classes: int) -> PerClass:
    """Precision, recall and F1 of each class with 95 % intervals; `true`, `predicted` and `groups` are (n,).

    Intervals come from a bootstrap over groups. Those of precision and recall extend at least as far as Wilson's over
    images, since resamples of a class without mistakes never contain one.

    Examples:
        >>> scores = per_class_intervals(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), np.arange(4), 2)
        >>> scores.recall.value.tolist()
        [0.5, 1.0]
    """
    numbers, right = np.unique(groups, return_inverse=True)[1], true == predicted
    hits, support, claimed = (np.zeros((numbers.max() + 1, num_classes), int) for _ in range(3))  # (groups, classes)
    np.add.at(hits, (numbers[right], true[right]), 1)
    np.add.at(support, (numbers, true), 1)
    np.add.at(claimed, (numbers, predicted), 1)
    scores = _scores({"precision": (hits, claimed), "recall": (hits, support), "f1": (2 * hits, support + claimed)})
    for name, (top, bottom) in {"precision": (hits, claimed), "recall": (hits, support)}.items():
        wilson = [wilson_interval(t, b) if b else (np.nan, np.nan) for t, b in zip(*_totals(top, bottom), strict=True)]
        low, high = (
            np.fmin(scores[name].low, [w[0] for w in wilson]),
            np.fmax(scores[name].high, [w[1] for w in wilson]),
        )
        scores[name] = ClassScore(scores[name].value, low, high)
    return PerClass(**scores, images=support.sum(0), groups=(support > 0).sum(0))


def per_pixel_class_intervals(counts: np.ndarray, groups: np.ndarray) -> PerClass:
    """Precision, recall, F1 (Dice) and IoU of the pixels of each class with 95 % intervals over groups.

    `counts`: (n, C, C) pixels by true and predicted class, as from `segmentation.pixel_counts`; `groups`: (n,).
    """
    numbers = np.unique(groups, return_inverse=True)[1]
    cells = np.zeros((numbers.max() + 1, *counts.shape[1:]))
    np.add.at(cells, numbers, counts)
    hits, support, claimed = np.diagonal(cells, axis1=1, axis2=2), cells.sum(2), cells.sum(1)
    pairs = {"precision": (hits, claimed), "recall": (hits, support), "f1": (2 * hits, support + claimed)}
    scores = _scores({**pairs, "iou": (hits, support + claimed - hits)})
    return PerClass(**scores, images=(counts.sum(2) > 0).sum(0), groups=(support > 0).sum(0))


def _scores(counts: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, ClassScore]:
    """Name -> the ratio of the sums of two counts (groups, classes), with its percentiles over resampled groups."""
    scores = {}
    for name, (top, bottom) in counts.items():
        weights = bootstrap_weights(len(top), DRAWS)
        value, drawn = _ratio(top.sum(0), bottom.sum(0)), _ratio(weights @ top, weights @ bottom)
        scores[name] = ClassScore(value, *(_quantile(drawn, share) for share in (0.025, 0.975)))
    return scores


def _totals(top: np.ndarray, bottom: np.ndarray) -> tuple[list[int], list[int]]:
    return top.sum(0).tolist(), bottom.sum(0).tolist()


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def _quantile(drawn: np.ndarray, share: float) -> np.ndarray:
    """(classes,) quantiles over the draws in which the score is defined; NaN if there are none."""
    known = np.isfinite(drawn).any(axis=0)
    out = np.full(drawn.shape[1], np.nan)
    out[known] = np.nanquantile(drawn[:, known], share, axis=0)
    return out
