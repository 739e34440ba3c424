"""Confidence intervals of scores and means, over resampled groups of images, and of proportions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.stats import binomtest, norm

from xaitune.errors import InputError
from xaitune.stats import resampling
from xaitune.stats.outcomes import Outcomes

FEWEST = 5  # independent groups that an interval is widened for, however uneven the groups are
_ROUNDING = 1e-9  # scores closer than this count as equal


@dataclass(frozen=True)
class Interval:
    """A score with its interval, and the number of groups and images it is based on.

    `few`: what is too scarce for a reliable interval, such as '4 groups in the smallest class'; '' if nothing is.
    """

    value: float
    low: float
    high: float
    groups: int
    images: int
    few: str = ""

    @property
    def reliable(self) -> bool:
        """Whether the interval can be relied on: False if `few` gives a reason against it."""
        return not self.few


def wilson_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion, `successes` of `n` (Wilson 1927, without continuity correction).

    Returns (low, high) within 0..1; (0, 1) for n = 0, where nothing is known. Raises InputError if successes is not in
    0..n or level is not between 0 and 1.

    Examples:
        >>> low, high = wilson_interval(8, 10)
        >>> round(low, 3), round(high, 3)
        (0.49, 0.943)
    """
    resampling.check_level(level)
    if not 0 <= successes <= n:
        raise InputError(f"successes must be 0..n. Received: successes={successes}, n={n}.")
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(successes, n).proportion_ci(level, method="wilson")
    # For 0 and n successes a bound is exactly 0 or 1, which rounding errors must not change.
    return (0.0 if successes == 0 else float(interval.low)), (1.0 if successes == n else float(interval.high))


def _bounds(
    drawn: np.ndarray,
    value: float,
    left_out: np.ndarray,
    level: float,
    independent: float | None = None,
    factor: float | None = None,
) -> tuple[float, float]:
    """Bias-corrected and accelerated percentiles (BCa, Efron 1987) of resampled scores, which also suit scores near 0 or 1.

    `left_out` (G,) are the scores with each group left out. The normal quantiles are widened for few groups
    (Hesterberg 2015, the expanded percentile interval); where their sizes differ, by the number of `independent` ones and
    the `factor` of the variance.
    """
    if (independent or len(left_out)) < resampling.MIN_GROUPS:
        return float(drawn.min()), float(drawn.max())
    below = ((drawn < value - _ROUNDING).mean() + (drawn <= value + _ROUNDING).mean()) / 2  # a tie counts half
    shift = norm.ppf(below) if 0 < below < 1 else 0.0
    gap = left_out.mean() - left_out
    spread = float((gap**2).sum())
    skew = float((gap**3).sum()) / (6 * spread**1.5) if spread > _ROUNDING**2 else 0.0
    side = shift + np.array([-1, 1]) * resampling.reach(independent or len(left_out), level, factor)
    low, high = np.quantile(drawn, norm.cdf(shift + side / np.maximum(1 - skew * side, 1e-3)))
    return float(low), float(high)


def bootstrap_interval(
    true: Any,
    predicted: Any,
    groups: Any = None,
    metric: str = "f1_macro",
    *,
    level: float = 0.95,
    draws: int = resampling.DRAWS,
    seed: int = 0,
) -> Interval:
    """The score, averaged over seeds, with its interval over resampled groups (BCa, widened for few groups).

    `true` (n,); `predicted` (n,) or (S, n) for S seeds on the same images; `groups` (n,) or None. The interval allows
    for other test images of the same kind, not for other seeds. See `Interval.reliable`. Raises InputError for wrong
    shapes, labels or an unknown metric.

    Examples:
        >>> found = bootstrap_interval(true=[0, 0, 1, 1], predicted=[0, 1, 1, 1], metric="accuracy")
        >>> found.value, found.few
        (0.75, '4 groups, 1 group with a mistake')
    """
    return outcome_interval(Outcomes.of_classes(true, predicted), groups, metric, level=level, draws=draws, seed=seed)


def outcome_interval(
    outcomes: Outcomes,
    groups: Any = None,
    metric: str = "f1_macro",
    *,
    level: float = 0.95,
    draws: int = resampling.DRAWS,
    seed: int = 0,
) -> Interval:
    """`bootstrap_interval` for outcomes of any kind, classes or pixels."""
    resampling.check_level(level)
    groups = resampling.group_numbers(groups, len(outcomes))
    count = int(groups.max()) + 1
    value = resampling.resampled(outcomes, groups, np.ones((1, count)), metric)[0]
    drawn = resampling.resampled(outcomes, groups, resampling.bootstrap_weights(count, draws, seed), metric)
    few = resampling.too_few(outcomes.truth, outcomes.correct < 1, groups, metric)
    left_out = resampling.left_out(outcomes, groups, metric)
    # The degrees of freedom assume that a group's images are fully alike; one large group must not leave none of them.
    independent = max(resampling.degrees_of_freedom(groups) + 1, min(resampling.effective_groups(groups), FEWEST))
    uneven = independent, resampling.variance_factor(groups)
    low, high = _bounds(drawn, value, left_out, level, *uneven)
    return Interval(float(value), low, high, count, len(outcomes), few)


def mean_intervals(
    values: Any, groups: Any = None, *, level: float = 0.95, draws: int = resampling.DRAWS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean, low, high) of each column of `values` (n, k): means over images, intervals over resampled groups.

    Percentile intervals, widened for few groups (`reach`). NaN values are ignored, within resamples too. A column
    without values is NaN; a column whose values are all in one group has a NaN interval. `groups` (n,) or None. Raises
    InputError for groups of another length.
    """
    values = np.asarray(values, float)
    known = ~np.isnan(values)
    return ratio_intervals(np.where(known, values, 0), known, groups, level=level, draws=draws, seed=seed)


def ratio_intervals(
    tops: Any, bottoms: Any, groups: Any = None, *, level: float = 0.95, draws: int = resampling.DRAWS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ratio, low, high) of each column: the sum of `tops` (n, k) over that of `bottoms` (n, k), such as found and all boxes.

    Percentile intervals over resampled groups, as in `mean_intervals`: a column whose bottoms are 0 is NaN, and has a NaN
    interval where they are above 0 in one group only. `bottoms` are at least 0. Raises InputError for groups of another length.

    Examples:
        >>> ratio_intervals([[1], [0]], [[1], [3]])[0].tolist()
        [0.25]
    """
    resampling.check_level(level)
    tops, bottoms = np.asarray(tops, float), np.asarray(bottoms, float)
    numbers = resampling.group_numbers(groups, len(tops))
    in_group = sparse.coo_array((np.ones(len(tops)), (numbers, np.arange(len(tops))))).tocsr()  # (G, n)
    sums, counts = in_group @ tops, in_group @ bottoms  # (G, k)
    rng = np.random.default_rng(seed)
    shares = np.full(len(sums), 1 / len(sums))
    step = max(1, resampling.CHUNK // len(sums))
    parts = []
    for start in range(0, draws, step):
        drawn = rng.multinomial(len(sums), shares, size=min(step, draws - start))
        parts.append(_ratio(drawn @ sums, drawn @ counts))
    drawn, bounds = np.concatenate(parts), np.full((2, tops.shape[1]), np.nan)
    for column, groups_with_values in enumerate((counts > 0).sum(0)):
        if groups_with_values > 1:
            sides = norm.cdf(np.array([-1, 1]) * resampling.reach(int(groups_with_values), level))
            bounds[:, column] = np.nanquantile(drawn[:, column], sides)
    return _ratio(sums.sum(0), counts.sum(0)), bounds[0], bounds[1]


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
