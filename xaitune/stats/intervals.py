"""Scores of a classifier, and how far to trust them: intervals and paired comparisons over groups.

Everything rests on confusion matrices (rows: true class, columns: predicted class). A resample of groups is then a
weighted sum of the groups' confusion matrices, so a bootstrap costs one sparse product and no loop over images.
Seeds share their test images: they are averaged within a resample, never pooled as more images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.stats import binomtest, norm, t

from xaitune.config.schema import METRICS
from xaitune.errors import InputError, nearest

DRAWS = 2000
MARGIN = 0.01  # of the verdict: one point of the score
# With fewer the intervals cover the truth less often than they claim (benchmarks/coverage.py):
FEW_GROUPS = 15
FEW_CLASS_GROUPS = 5  # of the smallest class, where a score is a mean over classes
FEW_MISTAKES = 8  # groups with a mistake, or for a difference those on which the two differ
CLASS_MEANS = ("f1_macro", "balanced_accuracy")
VERDICTS = ("confirmed", "contradicted", "cannot tell")
_ROUNDING = 1e-9  # scores nearer than this are equal
_CHUNK = 4_000_000  # numbers held at once while resampling: 32 MB


@dataclass(frozen=True)
class Interval:
    """A score with its interval, and the number of groups and images that it rests on.

    `few`: what there is too little of for the interval to be relied on, such as '4 groups in the smallest class'.
    """

    value: float
    low: float
    high: float
    groups: int
    images: int
    few: str = ""

    @property
    def reliable(self) -> bool:
        """Whether the interval may be relied on: False with fewer than FEW_GROUPS groups, or where `few` says why."""
        return not self.few and self.groups >= FEW_GROUPS


@dataclass(frozen=True)
class Difference:
    """Score of a minus score of b on the same images, with its interval, and what it rests on; `few` as in Interval."""

    difference: float
    low: float
    high: float
    groups: int
    images: int
    few: str = ""

    @property
    def half_width(self) -> float:
        """Half of the interval's length."""
        return (self.high - self.low) / 2

    @property
    def reliable(self) -> bool:
        """Whether the interval may be relied on: False with fewer than FEW_GROUPS groups, or where `few` says why."""
        return not self.few and self.groups >= FEW_GROUPS


# ---- scores


def _labels(values: Any, num_classes: int, name: str) -> np.ndarray:
    labels = np.asarray(values)
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{name} must be class numbers 0..{num_classes - 1}. Received: dtype {labels.dtype}.")
    if labels.size == 0:
        raise InputError(f"{name} is empty: there is no image to score.")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise InputError(
            f"{name} must be class numbers 0..{num_classes - 1}. Received: {labels.min()}..{labels.max()}."
        )
    return labels.astype(np.int64)


def _truth_and_predictions(true: Any, predicted: Any, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    true, predicted = _labels(true, num_classes, "true"), _labels(predicted, num_classes, "predicted")
    if true.ndim != 1 or predicted.shape[-1] != len(true):
        raise InputError(f"true and predicted must have one entry an image. Received: {true.shape}, {predicted.shape}.")
    return true, predicted


def confusion(true: Any, predicted: Any, num_classes: int) -> np.ndarray:
    """How many images of each true class (row) were given each class (column).

    `true` and `predicted` are class numbers (n,). Returns whole numbers (C, C). Raises InputError for labels outside
    0..C-1 or of different length.
    """
    true, predicted = _truth_and_predictions(true, predicted, num_classes)
    counts = np.bincount(true * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, and 0 where bottom is 0 (scikit-learn's zero_division=0)."""
    top, bottom = np.broadcast_arrays(np.asarray(top, float), np.asarray(bottom, float))
    return np.divide(top, bottom, out=np.zeros(top.shape), where=bottom > 0)


def scores_from_confusion(confusion: np.ndarray, metric: str) -> np.ndarray:
    """One of config.METRICS from confusion matrices, equal to scikit-learn's with zero_division=0.

    `confusion` is (..., C, C) with true classes in rows, counts or weights; the result is (...), 0..1. Macro F1 is
    the mean over the classes that occur in truth or prediction, balanced accuracy over those that occur in truth, so
    a class that a resample lost is left out rather than counted as 0. A matrix without any image scores NaN. Raises
    InputError for an unknown metric.
    """
    if metric not in METRICS:
        raise InputError(
            f"metric must be one of {', '.join(METRICS)}. Received: metric={metric!r}.{nearest(metric, METRICS)}"
        )
    confusion = np.asarray(confusion, float)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)  # (..., C)
    support, claimed = confusion.sum(-1), confusion.sum(-2)  # of each true class, of each predicted class
    total = support.sum(-1)
    if metric in ("accuracy", "f1_micro"):  # with one label an image, every error is one miss and one false alarm
        score = _ratio(hits.sum(-1), total)
    elif metric == "balanced_accuracy":
        score = _ratio(_ratio(hits, support).sum(-1), (support > 0).sum(-1))
    else:
        f1 = _ratio(2 * hits, support + claimed)
        weights = support if metric == "f1_weighted" else (support + claimed > 0).astype(float)
        score = _ratio((f1 * weights).sum(-1), weights.sum(-1))
    return np.where(total > 0, score, np.nan)


def classification_metrics(true: Any, probabilities: Any, class_names: Sequence[str]) -> dict[str, Any]:
    """All scores of one model on one split, as plain numbers that JSON can hold.

    `true` is (n,), `probabilities` (n, C) and sums to 1 in each row. Keys: loss (mean cross-entropy in nats, a
    probability of 0 taken as 1e-15), the names of config.METRICS, precision_macro, precision_weighted, recall_macro,
    recall_weighted, per_class {name: precision, recall, f1, support}, confusion (a list of rows). Averages are taken
    as in scikit-learn; recall_macro differs from balanced_accuracy where a class is predicted that does not occur.
    Raises InputError for wrong shapes, labels, or probabilities that are not finite.
    """
    probabilities = np.asarray(probabilities, float)
    classes = len(class_names)
    if probabilities.ndim != 2 or probabilities.shape[1] != classes:
        raise InputError(f"probabilities must be (images, {classes} classes). Received: shape {probabilities.shape}.")
    if not np.isfinite(probabilities).all():
        raise InputError("probabilities must be finite. Received NaN or infinity: the model has diverged.")
    true, predicted = _truth_and_predictions(true, probabilities.argmax(1), classes)
    counts = confusion(true, predicted, classes)
    hits, support, claimed = np.diagonal(counts), counts.sum(1), counts.sum(0)
    parts = {
        "precision": _ratio(hits, claimed),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + claimed),
    }
    seen = support + claimed > 0
    chosen = np.clip(probabilities[np.arange(len(true)), true], 1e-15, 1)
    metrics: dict[str, Any] = {"loss": float(-np.log(chosen).mean())}
    metrics |= {metric: float(scores_from_confusion(counts, metric)) for metric in METRICS}
    for name in ("precision", "recall"):
        metrics[f"{name}_macro"] = float(parts[name][seen].mean())
        metrics[f"{name}_weighted"] = float(np.average(parts[name], weights=support))
    metrics["per_class"] = {
        str(label): {name: float(part[c]) for name, part in parts.items()} | {"support": int(support[c])}
        for c, label in enumerate(class_names)
    }
    metrics["confusion"] = counts.tolist()
    return metrics


# ---- intervals


def wilson_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share, `successes` of `n` (Wilson 1927, without continuity correction).

    Returns (low, high) within 0..1; (0, 1) where n is 0, since nothing is known. Raises InputError where successes
    is not 0..n or level not between 0 and 1.
    """
    _check_level(level)
    if not 0 <= successes <= n:
        raise InputError(f"successes must be 0..n. Received: successes={successes}, n={n}.")
    if n == 0:
        return 0.0, 1.0
    z2 = float(norm.ppf((1 + level) / 2)) ** 2
    share = successes / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # At 0 and n the bound is exactly 0 and 1; rounding must not move it.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, such as 0.95. Received: level={level!r}.")


def _group_numbers(groups: Any, images: int) -> np.ndarray:
    """0..G-1 for each image; without groups every image is its own."""
    if groups is None:
        return np.arange(images)
    groups = np.asarray(groups)
    if groups.shape != (images,):
        raise InputError(f"groups must have one entry an image. Received: {groups.shape} for {images} images.")
    return np.unique(groups, return_inverse=True)[1]


def _group_cells(true: np.ndarray, predicted: np.ndarray, groups: np.ndarray, num_classes: int) -> sparse.csr_array:
    """(C * C, G) counts; sparse, since a group of a few images fills a few cells only."""
    cells = true * num_classes + predicted
    shape = (num_classes**2, int(groups.max()) + 1)
    return sparse.coo_array((np.ones(len(true)), (cells, groups)), shape=shape).tocsr()


def group_confusions(true: Any, predicted: Any, groups: Any, num_classes: int) -> np.ndarray:
    """The confusion matrix of each group, (G, C, C), groups in sorted order; they sum to `confusion`.

    `true` and `predicted` are (n,); `groups` (n,) holds any labels, None makes every image its own group. Raises
    InputError as `confusion` does.
    """
    true, predicted = _truth_and_predictions(true, predicted, num_classes)
    cells = _group_cells(true, predicted, _group_numbers(groups, len(true)), num_classes)
    return cells.toarray().T.reshape(-1, num_classes, num_classes).astype(np.int64)


def bootstrap_weights(num_groups: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """How often each resample takes each group: (draws, G) whole numbers, each row summing to G.

    A row is one draw of G groups with replacement (Efron 1979). The same seed gives the same resamples.
    """
    if num_groups < 1 or draws < 1:
        raise InputError(f"A bootstrap needs groups and draws. Received: num_groups={num_groups}, draws={draws}.")
    return np.random.default_rng(seed).multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=draws)


def _resampled(true: np.ndarray, predicted: np.ndarray, groups: np.ndarray, weights: np.ndarray, metric: str) -> Any:
    """(draws,) seed-mean score in each resample; `predicted` is (S, n)."""
    num_classes = int(max(true.max(), predicted.max())) + 1  # further classes change no score
    step = max(1, _CHUNK // num_classes**2)
    scores = np.zeros(len(weights))
    for labels in predicted:
        cells = _group_cells(true, labels, groups, num_classes)
        for start in range(0, len(weights), step):
            drawn = (cells @ weights[start : start + step].T).T  # (draws, C * C)
            matrices = drawn.reshape(-1, num_classes, num_classes)
            scores[start : start + step] += scores_from_confusion(matrices, metric)
    return scores / len(predicted)


def _left_out(true: np.ndarray, predicted: np.ndarray, groups: np.ndarray, metric: str) -> np.ndarray:
    """(G,) seed-mean score without each group; `predicted` is (S, n)."""
    num_classes = int(max(true.max(), predicted.max())) + 1
    step = max(1, _CHUNK // num_classes**2)
    scores = np.zeros(int(groups.max()) + 1)
    for labels in predicted:
        cells = _group_cells(true, labels, groups, num_classes).tocsc()
        total = cells.sum(axis=1)[:, None]
        for start in range(0, len(scores), step):
            rest = (total - cells[:, start : start + step].toarray()).T.reshape(-1, num_classes, num_classes)
            scores[start : start + step] += scores_from_confusion(rest, metric)
    return scores / len(predicted)


def _reach(groups: int, level: float) -> float:
    """Standard errors of a resampled score on each side of it: Student's quantile, for few groups.

    Resamples of G groups vary by the factor sqrt((G - 1) / G) too little, which is made good here.
    """
    return float(t.ppf((1 + level) / 2, groups - 1)) * math.sqrt(groups / (groups - 1))


def _bounds(drawn: np.ndarray, value: float, left_out: np.ndarray, level: float) -> tuple[float, float]:
    """Bias-corrected and accelerated percentiles (BCa, Efron 1987) of resampled scores, for a score near its bound.

    `left_out` (G,) are the scores without each group. The normal quantiles are widened for few groups (Hesterberg 2015,
    the expanded percentile interval).
    """
    if len(left_out) < 2:
        return float(drawn.min()), float(drawn.max())
    below = ((drawn < value - _ROUNDING).mean() + (drawn <= value + _ROUNDING).mean()) / 2  # a tie counts half
    shift = norm.ppf(below) if 0 < below < 1 else 0.0
    gap = left_out.mean() - left_out
    spread = float((gap**2).sum())
    skew = float((gap**3).sum()) / (6 * spread**1.5) if spread > _ROUNDING**2 else 0.0
    side = shift + np.array([-1, 1]) * _reach(len(left_out), level)
    low, high = np.quantile(drawn, norm.cdf(shift + side / np.maximum(1 - skew * side, 1e-3)))
    return float(low), float(high)


def _too_few(true: np.ndarray, varied: np.ndarray, groups: np.ndarray, metric: str, what: str) -> str:
    """What there is too little of for an interval, or ''.

    `varied` (n,): the images that make resamples differ, named `what`: those with a mistake, or on which two differ.
    """
    count = int(groups.max()) + 1
    found = [f"{count} groups"] if count < FEW_GROUPS else []
    if metric in CLASS_MEANS:
        pairs = np.unique(true * count + groups)
        smallest = int(np.unique(pairs // count, return_counts=True)[1].min())
        if smallest < FEW_CLASS_GROUPS:
            found.append(f"{smallest} group{'s' if smallest != 1 else ''} in the smallest class")
    some = len(np.unique(groups[varied]))
    if some < FEW_MISTAKES:
        found.append(f"{some} group{'s' if some != 1 else ''} {what}")
    return ", ".join(found)


def _seeds_first(true: Any, predicted: Any) -> tuple[np.ndarray, np.ndarray]:
    predicted = np.atleast_2d(np.asarray(predicted))
    classes = int(max(np.max(true, initial=0), predicted.max(initial=0))) + 1
    if predicted.ndim != 2:
        raise InputError(f"predictions must be (images,) or (seeds, images). Received: shape {predicted.shape}.")
    return _truth_and_predictions(true, predicted, classes)


def bootstrap_interval(
    true: Any,
    predicted: Any,
    groups: Any = None,
    metric: str = "f1_macro",
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """The seed-mean score with its interval over resampled groups: see `_bounds`.

    `true` (n,); `predicted` (n,) or (S, n) for S seeds on the same images; `groups` (n,) or None. The interval is
    about other test images of the same kind, not about other seeds. See `Interval.reliable`. Raises InputError for
    wrong shapes, labels or metric.
    """
    _check_level(level)
    true, predicted = _seeds_first(true, predicted)
    groups = _group_numbers(groups, len(true))
    count = int(groups.max()) + 1
    value = _resampled(true, predicted, groups, np.ones((1, count)), metric)[0]
    drawn = _resampled(true, predicted, groups, bootstrap_weights(count, draws, seed), metric)
    few = _too_few(true, (predicted != true).any(axis=0), groups, metric, "with a mistake")
    low, high = _bounds(drawn, value, _left_out(true, predicted, groups, metric), level)
    return Interval(float(value), low, high, count, len(true), few)


def mean_intervals(
    values: Any, groups: Any = None, *, level: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean, low, high) of each column of `values` (n, k): means over images, intervals over resampled groups.

    Percentile intervals, widened for few groups (`_reach`). NaN is left out of its column, also within a resample; a
    column without a value is NaN, one whose values stand in a single group has no interval. `groups` (n,) or None.
    Raises InputError for groups of another length.
    """
    _check_level(level)
    values = np.asarray(values, float)
    numbers = _group_numbers(groups, len(values))
    known = ~np.isnan(values)
    member = sparse.coo_array((np.ones(len(values)), (numbers, np.arange(len(values))))).tocsr()  # (G, n)
    sums, counts = member @ np.where(known, values, 0), member @ known.astype(float)  # (G, k)
    rng, shares, step = np.random.default_rng(seed), np.full(len(sums), 1 / len(sums)), max(1, _CHUNK // len(sums))
    parts = []
    for start in range(0, draws, step):
        drawn = rng.multinomial(len(sums), shares, size=min(step, draws - start))
        parts.append(_mean(drawn @ sums, drawn @ counts))
    drawn, bounds = np.concatenate(parts), np.full((2, values.shape[1]), np.nan)
    for column, spread in enumerate((counts > 0).sum(0)):
        if spread > 1:
            sides = norm.cdf(np.array([-1, 1]) * _reach(int(spread), level))
            bounds[:, column] = np.nanquantile(drawn[:, column], sides)
    return _mean(sums.sum(0), counts.sum(0)), bounds[0], bounds[1]


def _mean(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def paired_bootstrap(
    predictions_a: Any,
    predictions_b: Any,
    true: Any,
    groups: Any = None,
    metric: str = "f1_macro",
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """Seed-mean score of a minus that of b on the same images, with its interval over groups.

    `predictions_a` (S, n) and `predictions_b` (T, n), or (n,) for one seed; `true` and `groups` (n,). Both are scored
    on the same resamples, so what makes an image hard for both cancels. The interval is Student's, of the resamples'
    standard error: where two models differ on few groups, percentiles hold the truth too seldom. Raises InputError as
    `bootstrap_interval`.
    """
    _check_level(level)
    true_a, a = _seeds_first(true, predictions_a)
    _, b = _seeds_first(true, predictions_b)
    numbers = _group_numbers(groups, len(true_a))
    count = int(numbers.max()) + 1
    whole, weights = np.ones((1, count)), bootstrap_weights(count, draws, seed)
    value = _resampled(true_a, a, numbers, whole, metric)[0] - _resampled(true_a, b, numbers, whole, metric)[0]
    drawn = _resampled(true_a, a, numbers, weights, metric) - _resampled(true_a, b, numbers, weights, metric)
    differ = (a == true_a).mean(axis=0) != (b == true_a).mean(axis=0)
    few = _too_few(true_a, differ, numbers, metric, "on which the two differ")
    half = _reach(count, level) * float(drawn.std()) if count > 1 else math.inf
    return Difference(float(value), float(value - half), float(value + half), count, len(true_a), few)


def mcnemar_exact(correct_a: Any, correct_b: Any) -> float:
    """Two-sided exact McNemar test: the p-value that a and b are right equally often.

    `correct_a` and `correct_b` are (n,) booleans for the same images, of one seed each. Only images on which they
    differ count; without any the p-value is 1. It takes images as independent: with groups of several images prefer
    `paired_bootstrap`. Raises InputError for different lengths.
    """
    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    if a.shape != b.shape or a.ndim != 1:
        raise InputError(f"correct_a and correct_b must have one entry an image. Received: {a.shape}, {b.shape}.")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


# ---- the verdict


def verdict(difference: float, low: float, high: float, margin: float = MARGIN) -> str:
    """What a sweep says about an advice: one of VERDICTS.

    `difference` is the advised depth's score minus that of the other depth best on validation, `low` and `high` its
    interval. Confirmed: low > -margin. Contradicted: high < 0. An interval inside (-margin, 0) meets both: the advised
    depth is then worse by less than the margin, and that is what the margin allows, so it is confirmed. Bounds that
    are not finite tell nothing. Raises InputError unless low <= high.
    """
    if not all(map(math.isfinite, (difference, low, high))):
        return "cannot tell"
    if low > high:
        raise InputError(f"The interval's bounds are in the wrong order. Received: low={low}, high={high}.")
    if low > -margin:
        return "confirmed"
    return "contradicted" if high < 0 else "cannot tell"


def images_needed(difference: float, half_width: float, images: int, margin: float = MARGIN) -> int | None:
    """About how many test images it would take for `verdict` to be decided, were the difference to stay as it is.

    The half width is taken to shrink with 1 / sqrt(images) at the same images a group. Confirming needs it below
    difference + margin, contradicting below -difference: the easier of the two counts. Never fewer than `images`; None
    where no number would do (margin 0 and difference 0) or a value is not finite.
    """
    target = max(difference + margin, -difference)
    if not (math.isfinite(difference) and math.isfinite(half_width)) or target <= 0:
        return None
    # The bound is strict, so at exactly the target one image more is needed.
    needed = math.floor(images * (half_width / target) ** 2) + 1
    return max(needed, images)
