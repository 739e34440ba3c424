"""LIME's linear model: sample weights, the regression, its intervals, and its stability under another draw of masks.

Arrays only; `masks` are (samples, superpixels) of 0 and 1, `targets` (samples, classes) probabilities.
"""

import dataclasses

import numpy as np
from scipy.stats import rankdata

from xaitune.explain.lime.emulator import Emulator
from xaitune.explain.lime.masks import ENUMERATED, balanced_masks, draw_halves

KERNEL_WIDTH = 0.25
RIDGE_ALPHA = 1.0
PACKAGE_SAMPLES = 1000  # the lime package's default, for which its alpha of 1 is meant
DRAWS = 100  # of the bootstrap and of the posterior
STABLE = (0.9, 0.8)  # Spearman and top-5 Jaccard of two independent runs at which no more samples are drawn
TOP = 5
SMOOTHED_CLASSES = 20  # the most likely ones; all others keep the plain Ridge weights
LEARNT = 0.5  # the leave-one-out R^2 below which the emulator is not used
POSTERIOR_MASKS = 1024  # the emulator's posterior is drawn on at least this many masks


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """The weights estimated from some samples.

    `weights`: (classes, superpixels). `interval`: (classes, superpixels, 2), 95 %. `stability`: for each class the
    Spearman correlation of the weights and the Jaccard index of the five most positive superpixels that two independent
    runs of the same size are expected to reach. Both are NaN for classes beyond the SMOOTHED_CLASSES most likely.
    `learnt`: (classes,) the emulator's leave-one-out R^2, NaN where there is none.
    """

    weights: np.ndarray
    interval: np.ndarray
    stability: np.ndarray
    learnt: np.ndarray


def sample_weights(masks: np.ndarray) -> np.ndarray:
    """(samples,) sqrt(exp(-d^2 / 0.25^2)), d = 1 - sqrt(share of superpixels shown), the cosine distance to all ones."""
    distance = 1 - np.sqrt(masks.mean(axis=1))
    return np.sqrt(np.exp(-(distance**2) / KERNEL_WIDTH**2))


def ridge(
    masks: np.ndarray, targets: np.ndarray, kernels: np.ndarray, alpha: float = RIDGE_ALPHA
) -> tuple[np.ndarray, np.ndarray]:
    """Ridge with an intercept, once for each row of sample weights in `kernels` (k, n).

    Returns the weights (k, classes, superpixels) and the intercepts (k, classes).
    """
    x, y = masks.astype(np.float64), targets.astype(np.float64)
    total = kernels.sum(axis=1)
    mean_x, mean_y = kernels @ x / total[:, None], kernels @ y / total[:, None]  # (k, m), (k, classes)
    gram = np.stack([(x * w[:, None]).T @ x for w in kernels])
    gram -= total[:, None, None] * mean_x[:, :, None] * mean_x[:, None, :]
    cross = np.stack([(x * w[:, None]).T @ y for w in kernels])
    cross -= total[:, None, None] * mean_x[:, :, None] * mean_y[:, None, :]
    weights = np.linalg.solve(gram + alpha * np.eye(x.shape[1]), cross).transpose(0, 2, 1)
    return weights, mean_y - np.einsum("kcm,km->kc", weights, mean_x)


def r_squared(masks: np.ndarray, target: np.ndarray, weights: np.ndarray) -> float:
    """Weighted R^2 of a linear model with these weights and its best intercept; 0 for a constant target."""
    share = sample_weights(masks)
    share = share / share.sum()
    y = target - share @ target
    residual = y - (masks - share @ masks) @ weights
    total = share @ y**2
    # The variance of a constant target is nothing but rounding.
    return float(1 - (share @ residual**2) / total) if total > 1e-24 else 0.0


def fit_package(masks: np.ndarray, targets: np.ndarray, seed: int) -> Fit:
    """The lime package's weights, with intervals and stability from a bootstrap over the samples."""
    n = len(masks)
    counts = np.random.default_rng([seed, 1]).multinomial(n, np.full(n, 1 / n), DRAWS)
    kernel = sample_weights(masks)
    weights = ridge(masks, targets, kernel[None])[0][0]
    likeliest = _likeliest(targets)
    resampled = ridge(masks, targets[:, likeliest], counts * kernel)[0]
    return _summary(weights, likeliest, resampled - weights[likeliest])


def fit_pairs(halves: np.ndarray, shown: np.ndarray, hidden: np.ndarray, seed: int) -> Fit:
    """Weights from complementary pairs: `shown` (pairs, classes) are the answers to `halves`, `hidden` to 1 - halves.

    The noise of LIME's regression comes from the interactions of superpixels, which are smooth and can be learnt. So an
    `Emulator` is fitted to the answers, and the regression on what it predicts for `balanced_masks` is a first
    estimate. Ridge on its leave-one-out residuals corrects this estimate: a control variate (Oates, Girolami and Chopin
    2017), whose limit is LIME's whatever the emulator predicts. The correction is shrunk by the part of it that is
    noise, (its variance) / (its mean square), at most 1, as James and Stein (1961) shrink towards a guess. Where all
    2^m masks are drawn, the weights are Ridge's. Up to ENUMERATED superpixels the first estimate uses the true answers
    to the masks drawn, and the correction is scaled down to the masks that are not.

    The correction varies over a bootstrap of the pairs, the first estimate over the emulator's posterior; both
    variances are scaled by the share of all masks that is not drawn. Intervals have the width of the unshrunk
    correction's, since the first estimate's error does not show in its own spread. They are too narrow where answers jump
    between 0 and 1, which no emulator learns from few masks, and where they are no wider than the error of the balanced
    masks themselves: below a thousandth of the largest weight at 18 superpixels, more beyond 255. A single pair has no
    interval, and a stability of 0. Ridge's alpha is the lime package's in proportion to the samples (1 for 1,000), so
    that weights do not grow with their number.

    A class of which the emulator's leave-one-out R^2 is below LEARNT (gates, where a few superpixels count only together)
    has Ridge's weights on the pairs, and the spread of their bootstrap.
    """
    pairs, superpixels = halves.shape
    # Pair by pair, so that the first masks, from which the emulator learns, are balanced too.
    masks = np.stack([halves, 1 - halves], axis=1).reshape(-1, superpixels)
    targets = np.stack([shown, hidden], axis=1).reshape(len(masks), -1)
    kernel = sample_weights(masks)
    weights = _scaled_ridge(masks, targets, kernel[None])[0]
    likeliest = _likeliest(targets)
    not_drawn = 1 - min(1.0, len(masks) / 2.0**superpixels)  # share of all masks
    if not_drawn == 0:
        return _summary(weights, likeliest, np.zeros((DRAWS, len(likeliest), superpixels)))
    if pairs == 1:
        unknown = np.full((*weights.shape, 2), np.nan)
        return Fit(weights, unknown, np.zeros((len(weights), 2)), np.full(len(weights), np.nan))
    probabilities = _merge_unlikely(targets, likeliest)
    emulator = Emulator(masks, probabilities)
    answers = probabilities[:, : len(likeliest)]
    residuals = answers - emulator.leave_one_out[:, : len(likeliest)]
    learnt = 1 - residuals.var(axis=0) / np.maximum(answers.var(axis=0), 1e-24)
    by_ridge, by_emulator = np.flatnonzero(learnt < LEARNT), np.flatnonzero(learnt >= LEARNT)

    counts = np.random.default_rng([seed, 1]).multinomial(pairs, np.full(pairs, 1 / pairs), DRAWS)
    counts = np.concatenate([np.ones((1, pairs), int), counts])  # the first row: the samples themselves
    kernels = np.repeat(counts, 2, axis=1) * kernel
    spread, bootstrap_spread = np.empty((2, DRAWS, len(likeliest), superpixels))
    if len(by_ridge):
        resampled = _scaled_ridge(masks, answers[:, by_ridge], kernels)
        spread[:, by_ridge] = bootstrap_spread[:, by_ridge] = resampled[1:] - resampled[0]
    if len(by_emulator):
        estimate, posterior_spread = _first_estimate(emulator, masks, probabilities, seed)
        corrections = _scaled_ridge(masks, residuals[:, by_emulator], kernels)  # (1 + draws, classes, m)
        correction, bootstrap = not_drawn * corrections[0], corrections[1:] - corrections[0]
        variance = not_drawn * bootstrap.var(axis=0).mean(axis=1)
        mean_square = (correction**2).mean(axis=1)
        noise_share = np.divide(variance, mean_square, out=np.zeros_like(mean_square), where=mean_square > 0)
        shrinkage = np.minimum(1, noise_share)[:, None]
        weights[likeliest[by_emulator]] = estimate[by_emulator] + (1 - shrinkage) * correction
        spread[:, by_emulator] = (1 - shrinkage) * bootstrap + shrinkage * posterior_spread[:, by_emulator]
        bootstrap_spread[:, by_emulator] = bootstrap
    return _summary(weights, likeliest, np.sqrt(not_drawn) * spread, np.sqrt(not_drawn) * bootstrap_spread, learnt)


def fit_labels(halves: np.ndarray, shown: np.ndarray, hidden: np.ndarray, seed: int) -> Fit:
    """`fit_pairs` for probabilities that do not add up to 1: each label by itself, against its absence."""
    fits = [
        fit_pairs(halves, _against_absence(shown[:, i]), _against_absence(hidden[:, i]), seed)
        for i in range(shown.shape[1])
    ]
    return Fit(*(np.stack([getattr(fit, f.name)[1] for fit in fits]) for f in dataclasses.fields(Fit)))


def _against_absence(probability: np.ndarray) -> np.ndarray:
    return np.stack([1 - probability, probability], axis=1)


def _first_estimate(
    emulator: Emulator, masks: np.ndarray, probabilities: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The weights (classes, m) of the emulator's predictions, and their spread (draws, classes, m) over its posterior."""
    superpixels = masks.shape[1]
    balanced = balanced_masks(superpixels)
    predicted = emulator(balanced)
    if superpixels <= ENUMERATED:
        predicted[masks @ (1 << np.arange(superpixels))] = probabilities
    estimate = _scaled_ridge(balanced, predicted, sample_weights(balanced)[None])[0]
    half = draw_halves(superpixels, max(POSTERIOR_MASKS, 4 * superpixels) // 2, 0)
    posterior_masks = np.concatenate([half, 1 - half])
    deviations = emulator.posterior_deviations(posterior_masks, DRAWS, [seed, 2])
    deviations = deviations.transpose(1, 0, 2).reshape(len(posterior_masks), -1)
    spread = _scaled_ridge(posterior_masks, deviations, sample_weights(posterior_masks)[None])[0]
    return estimate, spread.reshape(DRAWS, -1, superpixels)


def _scaled_ridge(masks: np.ndarray, targets: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    """(k, classes, superpixels): `ridge` with the lime package's alpha in proportion to the samples."""
    return ridge(masks, targets, kernels, RIDGE_ALPHA * len(masks) / PACKAGE_SAMPLES)[0]


def _likeliest(targets: np.ndarray) -> np.ndarray:
    """Indices of the classes with the highest mean probability, at most SMOOTHED_CLASSES, ascending."""
    return np.sort(np.argsort(-targets.mean(axis=0), kind="stable")[:SMOOTHED_CLASSES])


def _merge_unlikely(targets: np.ndarray, likeliest: np.ndarray) -> np.ndarray:
    """The probabilities of the classes `likeliest` and, if there are other classes, a column with the sum of theirs."""
    if len(likeliest) == targets.shape[1]:
        return targets
    kept = targets[:, likeliest]
    return np.concatenate([kept, np.maximum(1 - kept.sum(axis=1, keepdims=True), 0)], axis=1)


def _summary(
    weights: np.ndarray,
    likeliest: np.ndarray,
    spread: np.ndarray,
    interval_spread: np.ndarray | None = None,
    learnt: np.ndarray | float = np.nan,
) -> Fit:
    """The Fit from `spread` (draws, likeliest, m), each draw's distance from the estimate.

    `interval_spread`: the same for the intervals, where these are to be wider.
    """
    interval = np.full((*weights.shape, 2), np.nan)
    bounds = np.percentile(spread if interval_spread is None else interval_spread, [2.5, 97.5], axis=0)
    interval[likeliest] = np.moveaxis(weights[likeliest] + bounds, 0, -1)
    stability = np.full((len(weights), 2), np.nan)
    stability[likeliest] = [expected_stability(weights[c], spread[:, i]) for i, c in enumerate(likeliest)]
    learnt_by_class = np.full(len(weights), np.nan)
    learnt_by_class[likeliest] = learnt
    return Fit(weights, interval, stability, learnt_by_class)


def expected_stability(weights: np.ndarray, spread: np.ndarray) -> tuple[float, float]:
    """(Spearman, top-5 Jaccard) that two independent runs would reach, from weights (m,) and their `spread` (draws, m).

    Estimated weights vary more than the true ones, by the sampling error. So two runs are simulated around weights
    shrunk towards their median, each by its own error, and wholly within sqrt(2) standard errors (where AIC would drop
    it): of superpixels that weigh nothing, the order in one run is chance and says nothing about another.
    Both are 1 where the spread is 0.
    """
    if len(weights) < 2 or not spread.any():
        return 1.0, 1.0
    centre = np.median(weights)
    squared_error, squared_distance = spread.var(axis=0), (weights - centre) ** 2
    noise_share = np.divide(
        2 * squared_error, squared_distance, out=np.ones_like(weights), where=squared_distance > 2 * squared_error
    )
    runs = centre + (1 - noise_share) * (weights - centre) + spread
    half = len(runs) // 2
    return spearman(runs[:half], runs[half : 2 * half]), jaccard(runs[:half], runs[half : 2 * half])


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Mean rank correlation between the rows of two arrays (runs, m); 0 for a constant row."""
    a, b = (rankdata(x, axis=1) for x in (a, b))
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return float(np.mean(np.divide((a * b).sum(axis=1), size, out=np.zeros_like(size), where=size > 0)))


def jaccard(a: np.ndarray, b: np.ndarray, top: int = TOP) -> float:
    """Mean Jaccard index of the `top` highest entries in each row of two arrays (runs, m)."""
    a, b = (rankdata(-x, axis=1, method="ordinal") <= top for x in (a, b))
    return float(np.mean((a & b).sum(axis=1) / (a | b).sum(axis=1)))
