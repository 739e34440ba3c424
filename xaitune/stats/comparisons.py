"""Comparison of two models on the same images: their difference in score with its interval, and McNemar's test."""

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm, t

from xaitune.errors import InputError
from xaitune.stats import resampling
from xaitune.stats.metrics import CLASS_MEANS
from xaitune.stats.outcomes import Outcomes

_ROUNDING = 1e-12
PRIOR_SEEDS = 2  # degrees of freedom that the other pairs' seed variance counts for beside a pair's own


@dataclass(frozen=True)
class Difference:
    """Score of a minus score of b on the same images, with its interval; `groups`, `images` and `few` as in Interval.

    `seeds`: of how many trainings each score is the mean; with 1 the interval is about these two trained models, with
    more about trainings of the same kind. `group_error` and `seed_error` are the standard errors over test groups and
    over seeds.
    """

    difference: float
    low: float
    high: float
    groups: int
    images: int
    few: str = ""
    seeds: int = 1
    group_error: float = math.nan
    seed_error: float = 0.0

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    @property
    def reliable(self) -> bool:
        """Whether the interval can be relied on: False if `few` gives a reason against it."""
        return not self.few


@dataclass(frozen=True, eq=False)
class _Resampled:
    """One model's scores: of each seed (S,), the seeds' mean in each resample (draws,), and its mistakes per image (n,)."""

    seeds: np.ndarray
    drawn: np.ndarray
    correct: np.ndarray


class PairedScores:
    """Scores of several models on the same test images, on the same resamples of groups, so that any two can be compared.

    `true` (n,), or None where models are added by their Outcomes; `groups` (n,) or None. The variance of a difference has two
    parts. That of the groups comes from the resamples, where what makes an image hard for both models cancels out; to it is
    added what two more groups answered differently, one each way, would contribute, so that it never vanishes (Agresti and
    Min 2005; with single images and accuracy the interval of Bonett and Price 2012). That of the seeds is s^2 / S of the S
    per-seed differences; since 2 or 3 seeds say little of it, the mean over all pairs counts as PRIOR_SEEDS further degrees
    of freedom. The two margins, each with its own Student quantile, are added in quadrature, which is wider than with
    Satterthwaite's degrees of freedom: these are too many where few seeds vary more than the groups.

    Examples:
        >>> scores = PairedScores([0, 0, 1, 1], metric="accuracy")
        >>> scores.add("a", [0, 0, 1, 1])
        >>> scores.add("b", [0, 1, 1, 0])
        >>> scores.difference("a", "b").difference
        0.5
    """

    def __init__(
        self,
        true: Any = None,
        groups: Any = None,
        metric: str = "f1_macro",
        *,
        draws: int = resampling.DRAWS,
        seed: int = 0,
    ) -> None:
        self.true, self.metric = true, metric
        self.truth = None if true is None else Outcomes.of_classes(true, true).truth  # (n, C)
        images = len(true if true is not None else () if groups is None else groups)
        self.groups = resampling.group_numbers(groups, images)
        self.count, self.effective = int(self.groups.max()) + 1, resampling.effective_groups(self.groups)
        self.weights = resampling.bootstrap_weights(self.count, draws, seed)
        self.models: dict[Any, _Resampled] = {}
        self._typical_seed_variance: float | None = None

    def add(self, name: Any, predicted: Any) -> None:
        """Add a model by its predictions (S, n), or (n,) for one seed, or by its Outcomes. Raises InputError."""
        outcomes = predicted if isinstance(predicted, Outcomes) else Outcomes.of_classes(self.true, predicted)
        if len(outcomes) != len(self.groups):
            raise InputError(
                f"The models must have answered on the same images. Received: {len(outcomes)}, not {len(self.groups)}."
            )
        if self.truth is None:
            self.truth = outcomes.truth
        whole = np.ones((1, self.count))
        each = [
            resampling.resampled(outcomes.seed(number), self.groups, whole, self.metric)[0]
            for number in range(len(outcomes.cells))
        ]
        drawn = resampling.resampled(outcomes, self.groups, self.weights, self.metric)
        self.models[name] = _Resampled(np.array(each), drawn, outcomes.correct)
        self._typical_seed_variance = None

    def remove(self, name: Any) -> None:
        """Take a model out, so that no other is compared with it."""
        del self.models[name]
        self._typical_seed_variance = None

    def difference(self, a: Any, b: Any, level: float = 0.95) -> Difference:
        """Score of a minus score of b, with its interval for this one pair."""
        resampling.check_level(level)
        if a == b:
            return Difference(
                0.0, 0.0, 0.0, self.count, len(self.groups), seeds=len(self.models[a].seeds), group_error=0.0
            )
        value = self._value(a, b)
        half = self._half_width(a, b, (1 + level) / 2)
        mistakes = np.minimum(self.models[a].correct, self.models[b].correct) < 1
        few = resampling.too_few(self._known_truth, mistakes, self.groups, self.metric)
        seeds = min(len(self.models[a].seeds), len(self.models[b].seeds))
        errors = math.sqrt(self._group_variance(a, b)), math.sqrt(self._seed_variance(a, b)[0])
        return Difference(value, value - half, value + half, self.count, len(self.groups), few, seeds, *errors)

    def lower_bounds(self, a: Any, level: float = 0.975) -> dict[Any, float]:
        """Every other model -> lower bound of a's score minus its, all of which hold together with probability `level`.

        One-sided and simultaneous: the quantile is that of the largest studentised deviation over all of these
        differences in the resamples (max-t; comparisons with the best as in Hsu 1996).
        """
        resampling.check_level(level)
        others = [name for name in self.models if name != a]
        if not others:
            return {}
        deviations = []
        for name in others:
            drawn = self.models[a].drawn - self.models[name].drawn
            deviations.append((drawn - drawn.mean()) / math.sqrt(self._group_variance(a, name)))
        largest = float(np.quantile(np.max(deviations, axis=0), level))
        probability = max(float(norm.cdf(largest)), level)
        return {name: self._value(a, name) - self._half_width(a, name, probability) for name in others}

    def _value(self, a: Any, b: Any) -> float:
        return float(self.models[a].seeds.mean() - self.models[b].seeds.mean())

    def _half_width(self, a: Any, b: Any, probability: float) -> float:
        """Distance from the difference to its one-sided bound at this probability."""
        if self.effective < resampling.MIN_GROUPS:
            return math.inf
        groups = t.ppf(probability, self.effective - 1) ** 2 * self._group_variance(a, b)
        variance, freedom = self._seed_variance(a, b)
        return math.sqrt(groups + (t.ppf(probability, freedom) ** 2 * variance if freedom else 0.0))

    def _group_variance(self, a: Any, b: Any) -> float:
        """Variance of the difference from one draw of test groups to another; never 0."""
        drawn = float((self.models[a].drawn - self.models[b].drawn).var())
        drawn *= self.effective / (self.effective - 1) if self.effective >= resampling.MIN_GROUPS else 1.0
        differ = len(np.unique(self.groups[self.models[a].correct != self.models[b].correct]))
        # What one group answered differently adds. Where all such groups cancel out in themselves, `drawn` is 0 too.
        typical = drawn / differ if differ and drawn > _ROUNDING else float((self._group_shares**2).mean())
        return drawn + 2 * typical

    @functools.cached_property
    def _group_shares(self) -> np.ndarray:
        """(G,) each group's share of the score: of the images, or of its classes where all classes count the same."""
        truth = self._known_truth
        share = truth.sum(axis=1) / truth.sum()
        if self.metric in CLASS_MEANS:
            truth = resampling.scored_classes(truth, self.metric)
            totals = truth.sum(axis=0)
            share = (truth[:, totals > 0] / totals[totals > 0]).mean(axis=1)
        return np.bincount(self.groups, weights=share)

    @property
    def _known_truth(self) -> np.ndarray:
        assert self.truth is not None  # two models are compared, so one has been added
        return self.truth

    def _seed_variance(self, a: Any, b: Any) -> tuple[float, float]:
        """Variance of the difference over trainings, and its degrees of freedom; (0, 0) where there is one seed each."""
        own, freedom = self._pair_variance(a, b)
        if not freedom:
            return 0.0, 0.0
        if len(self.models) < 3:
            return own, freedom
        if self._typical_seed_variance is None:
            pairs = [self._pair_variance(*pair) for pair in itertools.combinations(self.models, 2)]
            self._typical_seed_variance = float(np.mean([variance for variance, degrees in pairs if degrees]))
        together = freedom + PRIOR_SEEDS
        return (freedom * own + PRIOR_SEEDS * self._typical_seed_variance) / together, together

    def _pair_variance(self, a: Any, b: Any) -> tuple[float, int]:
        one, two = self.models[a].seeds, self.models[b].seeds
        if min(len(one), len(two)) < 2:
            return 0.0, 0
        if len(one) == len(two):
            return float((one - two).var(ddof=1)) / len(one), len(one) - 1
        return float(one.var(ddof=1) / len(one) + two.var(ddof=1) / len(two)), min(len(one), len(two)) - 1


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
    """Score of a minus score of b on the same images, averaged over seeds, with its interval; see `PairedScores`.

    `predictions_a` (S, n) and `predictions_b` (T, n), or (n,) for one seed; `true` and `groups` (n,). With S = T > 1
    the seeds are taken as pairs. Raises InputError as `bootstrap_interval` does.

    Examples:
        >>> found = paired_bootstrap([0, 0, 1, 1], [0, 1, 1, 0], true=[0, 0, 1, 1], metric="accuracy")
        >>> found.difference, found.reliable
        (0.5, False)
    """
    scores = PairedScores(true, groups, metric, draws=draws, seed=seed)
    scores.add("a", predictions_a)
    scores.add("b", predictions_b)
    return scores.difference("a", "b", level)


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
