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
    """Scores of every class, and the numbers of `images` and `groups`, (classes,) each, that they are based on."""

    precision: ClassScore
    recall: ClassScore
    f1: ClassScore
    images: np.ndarray
    groups: np.ndarray


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
    counts = {"precision": (hits, claimed), "recall": (hits, support), "f1": (2 * hits, support + claimed)}
    weights = bootstrap_weights(len(hits), DRAWS)
    scores = {}
    for name, (top, bottom) in counts.items():
        value, drawn = _ratio(top.sum(0), bottom.sum(0)), _ratio(weights @ top, weights @ bottom)
        low, high = (_quantile(drawn, share) for share in (0.025, 0.975))
        if name != "f1":
            wilson = [
                wilson_interval(t, b) if b else (np.nan, np.nan) for t, b in zip(*_totals(top, bottom), strict=True)
            ]
            low, high = np.fmin(low, [w[0] for w in wilson]), np.fmax(high, [w[1] for w in wilson])
        scores[name] = ClassScore(value, low, high)
    return PerClass(**scores, images=support.sum(0), groups=(support > 0).sum(0))


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
