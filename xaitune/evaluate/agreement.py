"""How alike two heatmaps are: rank correlation, overlap of the most relevant pixels, structural similarity."""

from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import uniform_filter

from xaitune.errors import InputError
from xaitune.evaluate.maps import by_chunk, check_maps, rank_correlation

SSIM_WINDOW = 7  # pixels
_SSIM_C1, _SSIM_C2 = 0.01**2, 0.03**2  # of Wang et al. 2004, for values in 0..1


class Agreement(NamedTuple):
    """`spearman`: rank correlation over pixels, -1..1. `top_iou`: overlap of the most relevant pixels, 0..1.

    `ssim`: structural similarity of the two as pictures, -1..1.
    """

    spearman: Any
    top_iou: Any
    ssim: Any


def _top_membership(maps: np.ndarray, count: int) -> np.ndarray:
    """1 for the `count` highest pixels, 0 for others; pixels tied at the border share what is left."""
    border = np.partition(maps, maps.shape[-1] - count, axis=-1)[:, maps.shape[-1] - count, None]
    above, tied = maps > border, maps == border
    left = count - above.sum(-1, keepdims=True)
    return above + tied * (left / tied.sum(-1, keepdims=True))


def _ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean structural similarity of maps (rows, h, w) in 0..1; NaN where a side is below 3 pixels."""
    window = min(SSIM_WINDOW, *((side - 1) // 2 * 2 + 1 for side in a.shape[1:]))
    if window < 3:
        return np.full(len(a), np.nan)

    def mean(x: np.ndarray) -> np.ndarray:
        edge = window // 2
        return uniform_filter(x, (0, window, window))[:, edge:-edge, edge:-edge]  # whole windows only

    unbiased = window**2 / (window**2 - 1)
    mean_a, mean_b = mean(a), mean(b)
    variances = unbiased * (mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2)
    covariance = unbiased * (mean(a * b) - mean_a * mean_b)
    alike = (2 * mean_a * mean_b + _SSIM_C1) * (2 * covariance + _SSIM_C2)
    return (alike / ((mean_a**2 + mean_b**2 + _SSIM_C1) * (variances + _SSIM_C2))).mean((1, 2))


def _stretched(maps: np.ndarray) -> np.ndarray:
    """Rows with their smallest value at 0 and their largest at 1; constant ones at 0."""
    low, high = maps.min(-1, keepdims=True), maps.max(-1, keepdims=True)
    return (maps - low).astype(np.float64) / np.where(high > low, high - low, 1)


def map_agreement(maps_a: Any, maps_b: Any, *, top: float = 0.1) -> Agreement:
    """How alike two maps of one size are: Spearman over pixels, IoU of the `top` share of pixels, and SSIM.

    Ties take their average rank; pixels tied at the border of the top share belong to it in part (the IoU is then sum
    of minima over sum of maxima), so no pixel order matters. Two random maps have a top IoU near top / (2 - top), not
    0. SSIM (Wang et al. 2004) is that of scikit-image on maps brought to 0..1 by their own minimum and maximum:
    uniform window of SSIM_WINDOW pixels (the largest odd one that fits a smaller map; NaN below 3), K1 0.01, K2 0.03,
    unbiased variances, mean over whole windows. All are NaN where a map is constant. Raises InputError for shapes that
    differ or a `top` outside 0..1.
    """
    maps_a, maps_b = check_maps(maps_a, "maps_a"), check_maps(maps_b, "maps_b")
    if maps_a.shape != maps_b.shape:
        raise InputError(f"Both maps must have the same shape. Received: {maps_a.shape} and {maps_b.shape}.")
    if not 0 < top <= 1:
        raise InputError(f"top must be a share above 0, at most 1. Received: top={top!r}.")
    size = maps_a.shape[-2:]
    count = max(1, round(top * size[0] * size[1]))

    def score(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        spearman = rank_correlation(a, b)
        in_a, in_b = _top_membership(a, count), _top_membership(b, count)
        iou = np.minimum(in_a, in_b).sum(-1) / np.maximum(in_a, in_b).sum(-1)
        ssim = _ssim(_stretched(a).reshape(-1, *size), _stretched(b).reshape(-1, *size))
        constant = np.isnan(spearman)
        return np.stack([spearman, np.where(constant, np.nan, iou), np.where(constant, np.nan, ssim)], -1)

    found = by_chunk(score, maps_a, maps_b)
    return Agreement(found[..., 0], found[..., 1], found[..., 2])
