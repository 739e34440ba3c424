"""How alike two heatmaps are: rank correlation, overlap of the most relevant pixels, structural similarity."""

from typing import Any, NamedTuple

import numpy as np
from skimage.metrics import structural_similarity

from xaitune.errors import InputError
from xaitune.evaluate.maps import as_maps, by_chunk, rank_correlation

SSIM_WINDOW = 7  # pixels


class Agreement(NamedTuple):
    """`spearman`: rank correlation over pixels, -1..1. `top_iou`: overlap of the most relevant pixels, 0..1.

    `ssim`: structural similarity of the maps as images, -1..1.
    """

    spearman: Any
    top_iou: Any
    ssim: Any


def _top_membership(maps: np.ndarray, count: int) -> np.ndarray:
    """1 for the `count` highest pixels of each row, else 0; pixels tied at the border share the places left."""
    border = np.partition(maps, maps.shape[-1] - count, axis=-1)[:, maps.shape[-1] - count, None]
    above, tied = maps > border, maps == border
    left = count - above.sum(-1, keepdims=True)
    return above + tied * (left / tied.sum(-1, keepdims=True))


def _ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean structural similarity of maps (rows, h, w) in 0..1; NaN where a side is below 3 pixels."""
    window = min(SSIM_WINDOW, *((side - 1) // 2 * 2 + 1 for side in a.shape[1:]))
    if window < 3:
        return np.full(len(a), np.nan)
    pairs = zip(a, b, strict=True)
    return np.array([structural_similarity(x, y, data_range=1, win_size=window) for x, y in pairs])


def _stretched(maps: np.ndarray) -> np.ndarray:
    """Rows scaled so that their smallest value is 0 and their largest 1; a constant row is 0."""
    low, high = maps.min(-1, keepdims=True), maps.max(-1, keepdims=True)
    return (maps - low).astype(np.float64) / np.where(high > low, high - low, 1)


def map_agreement(maps_a: Any, maps_b: Any, *, top: float = 0.1) -> Agreement:
    """How alike two maps of the same size are: Spearman over pixels, IoU of the `top` share of pixels, and SSIM.

    Ties take their average rank; pixels tied at the border of the top share belong to it in part (the IoU is then the
    sum of minima over the sum of maxima), so the order of pixels does not matter. Two random maps have a top IoU near
    top / (2 - top), not 0. SSIM (Wang et al. 2004) is scikit-image's, on maps scaled to 0..1 by their own minimum and
    maximum: uniform window of SSIM_WINDOW pixels (for a smaller map the largest odd one that fits; NaN below 3), K1
    0.01, K2 0.03, unbiased variances, mean over whole windows. All three are NaN where a map is constant. Raises
    InputError for different shapes or a `top` outside 0..1.

    Examples:
        >>> map_agreement([[1.0, 2.0, 3.0, 4.0]], [[1.0, 2.0, 4.0, 3.0]], top=0.5).top_iou.item()
        1.0
    """
    maps_a, maps_b = as_maps(maps_a, "maps_a"), as_maps(maps_b, "maps_b")
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

    scores = by_chunk(score, maps_a, maps_b)
    return Agreement(scores[..., 0], scores[..., 1], scores[..., 2])
