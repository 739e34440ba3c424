"""LIME's linear model: which superpixels are hidden, how samples count, the fit, and how far it would move if drawn again.

Arrays only; `masks` are (samples, superpixels) of 0 and 1, `targets` (samples, classes) probabilities.
"""

import dataclasses

import numpy as np
from scipy.special import softmax
from scipy.stats import rankdata
from sklearn.utils import check_random_state

KERNEL_WIDTH = 0.25
RIDGE_ALPHA = 1.0
PACKAGE_SAMPLES = 1000  # for which the lime package's alpha of 1 is meant
DRAWS = 100  # bootstrap draws
STABLE = (0.9, 0.8)  # Spearman and top-5 Jaccard of two independent runs at which no more samples are drawn
TOP = 5
SMOOTHED_CLASSES = 20  # the likeliest; the others keep the plain weights
_GRID = 1024  # pairs over which the log-linear model is averaged


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


def package_masks(superpixels: int, num_samples: int, seed: int) -> np.ndarray:
    """(num_samples, superpixels) in the order of the lime package with random_state=`seed`; the first row all 1."""
    state = check_random_state(seed)
    state.randint(0, high=1000)  # lime draws its segmenter's seed first
    masks = state.randint(0, 2, num_samples * superpixels).reshape(num_samples, superpixels)
    masks[0] = 1
    return masks


def draw_halves(superpixels: int, pairs: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """(at most `pairs`, superpixels): one mask of each complementary pair {z, 1 - z}, no pair twice, all 1 first.

    Pairs are equally likely. Where fewer exist (2^(superpixels - 1)), all of them come.
    """
    rng = np.random.default_rng(seed)
    free = superpixels - 1  # the first superpixel is shown in one mask of each pair, and that one is drawn
    if free <= 20:
        codes = 1 + rng.permutation(2**free - 1)[: pairs - 1]
        drawn = (codes[:, None] >> np.arange(free)) & 1
    else:
        drawn = rng.integers(0, 2, (pairs + pairs // 8 + 8, free))
        drawn = drawn[np.sort(np.unique(drawn, axis=0, return_index=True)[1])][: pairs - 1]
    halves = np.ones((len(drawn) + 1, superpixels), np.int64)
    halves[1:, 1:] = 1 - drawn
    return halves


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

    The estimate is Ridge's on all samples, drawn towards the weights that a log-linear model of all classes, averaged
    over many masks, would have: by (variance of the Ridge weights) / (mean square of their difference), at most 1, as
    James and Stein (1961) shrink towards a guess. Few samples lean on the guess, many do not, so that the limit is
    LIME's own. The bootstrap draws pairs; its spread is scaled by what is left to draw of all 2^m masks, and is 0 when
    none is. Intervals have the width of Ridge's own, since the guess's error does not show in a bootstrap. Ridge's alpha
    is the lime package's for the same share of its 1,000 samples, so that weights do not grow with the samples.
    """
    pairs, superpixels = halves.shape
    masks, targets = np.concatenate([halves, 1 - halves]), np.concatenate([shown, hidden])
    kernel, alpha = sample_weights(masks), RIDGE_ALPHA * len(masks) / PACKAGE_SAMPLES
    weights = ridge(masks, targets, kernel[None], alpha)[0][0]
    kept = _likeliest(targets)
    counts = np.random.default_rng([seed, 1]).multinomial(pairs, np.full(pairs, 1 / pairs), DRAWS)
    counts = np.concatenate([np.ones((1, pairs), int), counts])  # the samples themselves first
    counts = np.concatenate([counts, counts], axis=1)
    drawn = ridge(masks, targets[:, kept], counts * kernel, alpha)[0]  # (1 + draws, kept, m)
    guess = _log_linear(masks, targets, kept, counts)
    left = 1 - min(1.0, len(masks) / 2.0**superpixels)
    variance = left * drawn[1:].var(axis=0).mean(axis=1)  # (kept,)
    apart = ((drawn[0] - guess[0]) ** 2).mean(axis=1)
    lean = np.minimum(1, np.divide(variance, apart, out=np.zeros_like(apart), where=apart > 0))
    spread = np.sqrt(left) * (drawn[1:] - drawn[0])
    drawn += lean[:, None] * (guess - drawn)
    weights[kept] = drawn[0]
    return _summary(weights, kept, np.sqrt(left) * (drawn[1:] - drawn[0]), spread)


def _likeliest(targets: np.ndarray) -> np.ndarray:
    """The classes with the highest mean probability, at most SMOOTHED_CLASSES, in their own order."""
    return np.sort(np.argsort(-targets.mean(axis=0), kind="stable")[:SMOOTHED_CLASSES])


def _log_linear(masks: np.ndarray, targets: np.ndarray, kept: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(rows of counts, kept, m): LIME's weights if the log-probabilities were linear in the masks."""
    rest = np.maximum(1 - targets[:, kept].sum(axis=1, keepdims=True), 0)
    some = targets[:, kept] if len(kept) == targets.shape[1] else np.concatenate([targets[:, kept], rest], axis=1)
    logs = np.log(np.maximum(some, 1e-7))
    slopes, starts = ridge(masks, logs - logs.mean(axis=1, keepdims=True), counts)
    grid = draw_halves(masks.shape[1], _GRID, 0)
    grid = np.concatenate([grid, 1 - grid])
    kernel = sample_weights(grid)
    centred = grid - kernel @ grid / kernel.sum()
    project = np.linalg.solve((centred * kernel[:, None]).T @ centred, (centred * kernel[:, None]).T)  # (m, grid)
    out = [project @ softmax(grid @ slope.T + start, axis=1) for slope, start in zip(slopes, starts, strict=True)]
    return np.stack(out)[:, :, : len(kept)].transpose(0, 2, 1)


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
