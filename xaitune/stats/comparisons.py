"""Comparison of two models on the same images: their difference in score with its interval, and McNemar's test."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from xaitune.errors import InputError
from xaitune.stats import resampling


@dataclass(frozen=True)
class Difference:
    """Score of a minus score of b on the same images, with its interval; `groups`, `images` and `few` as in Interval."""

    difference: float
    low: float
    high: float
    groups: int
    images: int
    few: str = ""

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    @property
    def reliable(self) -> bool:
        """Whether the interval can be relied on: False with too few groups, or if `few` gives a reason."""
        return not self.few and self.groups >= resampling.FEW_GROUPS


def paired_bootstrap(
    predictions_a: Any,
    predictions_b: Any,
    true: Any,
    groups: Any = None,
    metric: str = "f1_macro",
    *,
    level: float = 0.95,
    draws: int = resampling.DRAWS,
    seed: int = 0,
) -> Difference:
    """Score of a minus score of b on the same images, averaged over seeds, with its interval over groups.

    `predictions_a` (S, n) and `predictions_b` (T, n), or (n,) for one seed; `true` and `groups` (n,). Both are scored
    on the same resamples, so what makes an image hard for both cancels out. The interval is Student's t interval with
    the standard error of the resamples: where two models differ on few groups, percentile intervals contain the truth
    too rarely. Raises InputError as `bootstrap_interval` does.

    Examples:
        >>> found = paired_bootstrap([0, 0, 1, 1], [0, 1, 1, 0], true=[0, 0, 1, 1], metric="accuracy")
        >>> found.difference, found.reliable
        (0.5, False)
    """
    resampling.check_level(level)
    true_a, a = resampling.seeds_first(true, predictions_a)
    _, b = resampling.seeds_first(true, predictions_b)
    numbers = resampling.group_numbers(groups, len(true_a))
    count = int(numbers.max()) + 1
    whole, weights = np.ones((1, count)), resampling.bootstrap_weights(count, draws, seed)
    scores = [resampling.resampled(true_a, one, numbers, whole, metric)[0] for one in (a, b)]
    drawn_a, drawn_b = (resampling.resampled(true_a, one, numbers, weights, metric) for one in (a, b))
    value, drawn = scores[0] - scores[1], drawn_a - drawn_b
    differ = (a == true_a).mean(axis=0) != (b == true_a).mean(axis=0)
    few = resampling.too_few(true_a, differ, numbers, metric, "on which the two differ")
    half = resampling.reach(count, level) * float(drawn.std()) if count > 1 else math.inf
    return Difference(float(value), float(value - half), float(value + half), count, len(true_a), few)


def mcnemar_exact(correct_a: Any, correct_b: Any) -> float:
    """p-value of the exact two-sided McNemar test of whether a and b are right equally often.

    `correct_a` and `correct_b` are (n,) booleans for the same images, of one seed each. Only images on which they
    differ count; without any, the p-value is 1. The test assumes independent images: with groups of several images,
    prefer `paired_bootstrap`. Raises InputError for different lengths.

    Examples:
        >>> mcnemar_exact([True] * 6 + [False], [False] * 6 + [True])
        0.125
    """
    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    if a.shape != b.shape or a.ndim != 1:
        raise InputError(f"correct_a and correct_b must have one entry per image. Received: {a.shape}, {b.shape}.")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)
