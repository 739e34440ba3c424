"""LIME's linear model: which superpixels are hidden, how samples count, the fit, and how far it would move if drawn again.

Arrays only; `masks` are (samples, superpixels) of 0 and 1, `targets` (samples, classes) probabilities.
"""

import dataclasses

import numpy as np
from scipy.stats import rankdata

from xaitune.explain.lime.emulator import Emulator
from xaitune.explain.lime.masks import ENUMERATED, balanced_masks, draw_halves

KERNEL_WIDTH = 0.25
RIDGE_ALPHA = 1.0
PACKAGE_SAMPLES = 1000  # for which the lime package's alpha of 1 is meant
DRAWS = 100  # bootstrap draws
STABLE = (0.9, 0.8)  # Spearman and top-5 Jaccard of two independent runs at which no more samples are drawn
TOP = 5
SMOOTHED_CLASSES = 20  # the likeliest; the others keep the plain weights
FEW = 1024  # masks, at least, over which its spread is


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """The weights from some samples.

    `weights`: (classes, superpixels). `interval`: (classes, superpixels, 2), 95 %. `stability`: for each class the
    Spearman correlation of the weights and the Jaccard index of the five most positive superpixels that two independent
    runs of the same size are expected to reach. Classes beyond the SMOOTHED_CLASSES likeliest have NaN for both.
    """

    weights: np.ndarray
    interval: np.ndarray
    stability: np.ndarray


def sample_weights(masks: np.ndarray) -> np.ndarray:
    """(samples,) sqrt(exp(-d^2 / 0.25^2)), d = 1 - sqrt(share of superpixels shown), the cosine distance to all ones."""
    distance = 1 - np.sqrt(masks.mean(axis=1))
    return np.sqrt(np.exp(-(distance**2) / KERNEL_WIDTH**2))


def ridge(
    masks: np.ndarray, targets: np.ndarray, kernels: np.ndarray, alpha: float = RIDGE_ALPHA
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted Ridge with an intercept for each row of `kernels` (k, n): (k, classes, superpixels), (k, classes)."""
    x, y = masks.astype(np.float64), targets.astype(np.float64)
    total = kernels.sum(axis=1)
    mean_x, mean_y = kernels @ x / total[:, None], kernels @ y / total[:, None]  # (k, m), (k, classes)
    gram = np.stack([(x * w[:, None]).T @ x for w in kernels])
    gram -= total[:, None, None] * mean_x[:, :, None] * mean_x[:, None, :]
    cross = np.stack([(x * w[:, None]).T @ y for w in kernels])
    cross -= total[:, None, None] * mean_x[:, :, None] * mean_y[:, None, :]
    solved = np.linalg.solve(gram + alpha * np.eye(x.shape[1]), cross).transpose(0, 2, 1)
    return solved, mean_y - np.einsum("kcm,km->kc", solved, mean_x)


def r_squared(masks: np.ndarray, target: np.ndarray, weights: np.ndarray) -> float:
    """Weighted R^2 of a linear model with these weights and its best intercept; 0 for a constant target."""
    share = sample_weights(masks)
    share = share / share.sum()
    y = target - share @ target
    residual = y - (masks - share @ masks) @ weights
    total = share @ y**2
    # A constant answer leaves only rounding to explain: no score.
    return float(1 - (share @ residual**2) / total) if total > 1e-24 else 0.0


def fit_package(masks: np.ndarray, targets: np.ndarray, seed: int) -> Fit:
    """The lime package's weights, with intervals and stability by a bootstrap over the samples."""
    n = len(masks)
    counts = np.random.default_rng([seed, 1]).multinomial(n, np.full(n, 1 / n), DRAWS)
    kernel = sample_weights(masks)
    weights = ridge(masks, targets, kernel[None])[0][0]
    kept = _likeliest(targets)
    drawn = ridge(masks, targets[:, kept], counts * kernel)[0]
    return _summary(weights, kept, drawn - weights[kept])


def fit_pairs(halves: np.ndarray, shown: np.ndarray, hidden: np.ndarray, seed: int) -> Fit:
    """Weights from complementary pairs: `shown` (pairs, classes) are the answers to `halves`, `hidden` to 1 - halves.

    The noise of LIME's regression is what superpixels do together, which is smooth and can be learnt. So an `Emulator`
    learns from the answers; its own weights, over `balanced_masks`, are the guess, and Ridge's on what it got wrong (each
    mask foretold without that mask) correct it: a control variate (Oates, Girolami and Chopin 2017), whose limit is
    LIME's whatever the emulator says. Of the correction as much is left out as is noise: (its variance) / (its mean
    square), at most 1, as James and Stein (1961) shrink towards a guess. Where all 2^m masks are drawn the weights are
    Ridge's; where many of them are, the guess takes their answers as they are, and the correction is for the others.

    The correction's spread is a bootstrap's over pairs, the guess's the emulator's own; both are scaled by what is left
    to draw of all masks. Intervals have the width of the whole correction, since the guess's error does not show in its
    own spread. They are too narrow where answers jump between 0 and 1, which no emulator learns from few, and where they
    are as narrow as the balanced masks' own error: below a thousandth of the largest weight at 18 superpixels, more beyond
    255. A single pair has no interval, and a stability of 0. Ridge's alpha is the lime package's for the same share of
    its 1,000 samples, so that weights do not grow with the samples.
    """
    pairs, superpixels = halves.shape
    masks = np.stack([halves, 1 - halves], axis=1).reshape(-1, superpixels)  # by pairs: some of them are balanced too
    targets = np.stack([shown, hidden], axis=1).reshape(len(masks), -1)
    kernel = sample_weights(masks)
    weights = _package_ridge(masks, targets, kernel[None])[0]
    kept = _likeliest(targets)
    left = 1 - min(1.0, len(masks) / 2.0**superpixels)
    if left == 0:
        return _summary(weights, kept, np.zeros((DRAWS, len(kept), superpixels)))
    if pairs == 1:
        unknown = np.full((*weights.shape, 2), np.nan)
        return Fit(weights, unknown, np.zeros((len(weights), 2)))
    shares = _shares(targets, kept)
    emulator = Emulator(masks, shares)
    grid = balanced_masks(superpixels)
    foretold = emulator(grid)
    if superpixels <= ENUMERATED:
        foretold[masks @ (1 << np.arange(superpixels))] = shares
    guess = _package_ridge(grid, foretold, sample_weights(grid)[None])[0]
    few = draw_halves(superpixels, max(FEW, 4 * superpixels) // 2, 0)
    few = np.concatenate([few, 1 - few])
    unsure = emulator.deviations(few, DRAWS, [seed, 2]).transpose(1, 0, 2).reshape(len(few), -1)
    unsure = _package_ridge(few, unsure, sample_weights(few)[None])[0].reshape(DRAWS, -1, superpixels)
    wrong = (shares - emulator.left_out)[:, : len(kept)]
    counts = np.random.default_rng([seed, 1]).multinomial(pairs, np.full(pairs, 1 / pairs), DRAWS)
    counts = np.concatenate([np.ones((1, pairs), int), counts])  # the samples themselves first
    drawn = _package_ridge(masks, wrong, np.repeat(counts, 2, axis=1) * kernel)  # (1 + draws, kept, m)
    spread, correction = drawn[1:] - drawn[0], left * drawn[0]
    noise, size = left * spread.var(axis=0).mean(axis=1), (correction**2).mean(axis=1)  # (kept,)
    lean = np.minimum(1, np.divide(noise, size, out=np.zeros_like(size), where=size > 0))[:, None]
    weights[kept] = guess[: len(kept)] + (1 - lean) * correction
    moved = (1 - lean) * spread + lean * unsure[:, : len(kept)]
    return _summary(weights, kept, np.sqrt(left) * moved, np.sqrt(left) * spread)


def _package_ridge(masks: np.ndarray, targets: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    """(k, classes, superpixels) with the lime package's alpha for that share of its samples."""
    return ridge(masks, targets, kernels, RIDGE_ALPHA * len(masks) / PACKAGE_SAMPLES)[0]


def _likeliest(targets: np.ndarray) -> np.ndarray:
    """The classes with the highest mean probability, at most SMOOTHED_CLASSES, in their own order."""
    return np.sort(np.argsort(-targets.mean(axis=0), kind="stable")[:SMOOTHED_CLASSES])


def _shares(targets: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """(samples, kept, or one more): the probabilities of `kept` and, where there are others, of all others together."""
    if len(kept) == targets.shape[1]:
        return targets
    return np.concatenate([targets[:, kept], np.maximum(1 - targets[:, kept].sum(axis=1, keepdims=True), 0)], axis=1)


def _summary(weights: np.ndarray, kept: np.ndarray, moved: np.ndarray, spread: np.ndarray | None = None) -> Fit:
    """`moved` (draws, kept, m): how far each bootstrap draw lies from the estimate; `spread` the same for Ridge alone."""
    interval = np.full((*weights.shape, 2), np.nan)
    width = np.percentile(moved if spread is None else spread, [2.5, 97.5], axis=0)
    interval[kept] = np.moveaxis(weights[kept] + width, 0, -1)
    stability = np.full((len(weights), 2), np.nan)
    stability[kept] = [expected_stability(weights[c], moved[:, i]) for i, c in enumerate(kept)]
    return Fit(weights, interval, stability)


def expected_stability(weights: np.ndarray, moved: np.ndarray) -> tuple[float, float]:
    """(Spearman, top-5 Jaccard) that two independent runs would reach, from weights (m,) and their bootstrap (draws, m).

    The weights found spread wider than the true ones, by the sampling error. So two runs are imagined around weights
    shrunk to the spread that is left without it. 1 where nothing moves.
    """
    centre = weights.mean()
    spread = weights.var()
    if len(weights) < 2 or not moved.any():
        return 1.0, 1.0
    true_share = np.sqrt(max(0.0, 1 - moved.var(axis=0).mean() / spread)) if spread > 0 else 0.0
    runs = centre + true_share * (weights - centre) + moved
    one, two = runs[: len(runs) // 2], runs[len(runs) // 2 : 2 * (len(runs) // 2)]
    return spearman(one, two), jaccard(one, two)


def spearman(one: np.ndarray, two: np.ndarray) -> float:
    """Mean rank correlation of the rows of two arrays (runs, m)."""
    a, b = (rankdata(x, axis=1) for x in (one, two))
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return float(np.mean(np.divide((a * b).sum(axis=1), size, out=np.zeros_like(size), where=size > 0)))


def jaccard(one: np.ndarray, two: np.ndarray, top: int = TOP) -> float:
    """Mean Jaccard index of the `top` highest of each row of two arrays (runs, m)."""
    a, b = (rankdata(-x, axis=1, method="ordinal") <= top for x in (one, two))
    return float(np.mean((a & b).sum(axis=1) / (a | b).sum(axis=1)))
