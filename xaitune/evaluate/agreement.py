"""How good is a heatmap: localisation against a mask, faithfulness to the model, concentration, agreement, stability.

Takes arrays and callables, never a model. Maps are (..., height, width) at image resolution with any axes in front,
such as (images, blocks, height, width); masks broadcast against them ((images, 1, height, width) serves all blocks);
a score has the axes in front, and is a plain number for one map. Maps may hold negative values (CAM, LIME):

- what depends on order alone (best_iou, pointing_game, average_precision, agreement's ranks, stability,
  deletion_insertion, road) uses the values as they are, negative ones ranking last;
- what measures shares (iou_at, mass_inside, concentration) counts negative values as 0. A map without any positive
  value is taken as constant there: it says nothing about where, and scores what chance would.

An empty mask scores NaN, to be left out of means and counted. Maps that are not finite raise InputError. This module is
the face of `localisation` and `faithfulness`; it holds what needs neither mask nor probability.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.stats import rankdata

from xaitune.errors import InputError
from xaitune.evaluate.faithfulness import average_drop_increase, deletion_insertion, road
from xaitune.evaluate.localisation import (
    average_precision,
    best_iou,
    f1_at_iou,
    iou_at,
    localise,
    mass_inside,
    pointing_game,
)
from xaitune.evaluate.maps import by_chunk, check_maps, positive_part, share

__all__ = [
    "agreement",
    "average_drop_increase",
    "average_precision",
    "best_iou",
    "concentration",
    "deletion_insertion",
    "f1_at_iou",
    "input_stability",
    "iou_at",
    "localise",
    "mass_inside",
    "pointing_game",
    "random_like",
    "road",
    "stability",
]
NOISE, SHIFT = 5.0, 2  # grey values, pixels: the small input changes of the stability measure
SSIM_WINDOW = 7  # pixels
_SSIM_C1, _SSIM_C2 = 0.01**2, 0.03**2  # of Wang et al. 2004, for values in 0..1


class Concentration(NamedTuple):
    """`gini`: 0 uniform, 1 a single pixel. `entropy`: 1 uniform, 0 a single pixel."""

    gini: Any
    entropy: Any


class Agreement(NamedTuple):
    """`spearman`: rank correlation over pixels, -1..1. `top_iou`: overlap of the most relevant pixels, 0..1.

    `ssim`: structural similarity of the two as pictures, -1..1.
    """

    spearman: Any
    top_iou: Any
    ssim: Any


def concentration(maps: Any) -> Concentration:
    """How concentrated a map's positive relevance is, as Gini coefficient and entropy, each scaled to 0..1.

    `gini`: mean absolute difference of two pixels over twice the mean, times p / (p - 1) for p pixels, so that a
    single pixel scores 1; 0 for a uniform map. `entropy`: of the relevance shares over log p; 1 uniform, 0 a single
    pixel. A map without positive values counts as uniform. NaN for maps of one pixel.
    """
    maps = check_maps(maps)
    if maps.shape[-1] * maps.shape[-2] == 1:
        nothing = np.full(maps.shape[:-2], np.nan)[()]
        return Concentration(nothing, nothing)

    def score(maps: np.ndarray) -> np.ndarray:
        shares = np.sort(positive_part(maps), -1)
        shares /= shares.sum(-1, keepdims=True)
        pixels = shares.shape[-1]
        ranks = 2 * np.arange(1, pixels + 1) - pixels - 1  # Gini = sum rank_i x_i / (p sum x), x ascending
        gini = shares @ ranks / (pixels - 1)
        logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
        return np.stack([gini, -(shares * logs).sum(-1) / np.log(pixels)], -1)

    found = np.clip(by_chunk(score, maps), 0, 1)  # rounding leaves -1e-17
    return Concentration(found[..., 0], found[..., 1])


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row-wise rank correlation (ties averaged); NaN where a row is constant."""
    a, b = (rankdata(x, axis=-1) for x in (a, b))
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    return share((a * b).sum(-1), np.sqrt((a * a).sum(-1) * (b * b).sum(-1)))


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


def agreement(maps_a: Any, maps_b: Any, *, top: float = 0.1) -> Agreement:
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
        spearman = _spearman(a, b)
        in_a, in_b = _top_membership(a, count), _top_membership(b, count)
        iou = np.minimum(in_a, in_b).sum(-1) / np.maximum(in_a, in_b).sum(-1)
        ssim = _ssim(_stretched(a).reshape(-1, *size), _stretched(b).reshape(-1, *size))
        constant = np.isnan(spearman)
        return np.stack([spearman, np.where(constant, np.nan, iou), np.where(constant, np.nan, ssim)], -1)

    found = by_chunk(score, maps_a, maps_b)
    return Agreement(found[..., 0], found[..., 1], found[..., 2])


def stability(maps: Any, changed: Any) -> Any:
    """Mean Spearman correlation of a map with the maps of slightly changed inputs, -1..1.

    `maps` (..., h, w); `changed` (k, ..., h, w), the maps of k changed copies of the same inputs, moved back where the
    change moved the image. NaN where the map itself is constant; a changed map that became constant counts 0, since
    nothing of the order was kept. Raises InputError for shapes that do not fit.
    """
    maps, changed = check_maps(maps), check_maps(changed, "changed")
    if changed.shape[1:] != maps.shape:
        raise InputError(f"changed must be (copies, *{maps.shape}). Received: shape {changed.shape}.")
    rows = np.broadcast_to(maps, changed.shape)
    found = np.asarray(by_chunk(_spearman, rows, changed))  # (k, ...)
    constant = maps.max((-2, -1)) == maps.min((-2, -1))
    return np.where(constant, np.nan, np.nan_to_num(found).mean(0))[()]


def input_stability(
    explain: Callable[[np.ndarray], Any],
    images: np.ndarray,
    rng: np.random.Generator,
    *,
    maps: Any = None,
    noise: float = NOISE,
    shift: int = SHIFT,
) -> Any:
    """`stability` of the maps that `explain` makes, under a little noise and a small shift of the images.

    `images` (n, h, w, 3) 0..255; `explain` gives their maps (n, ..., h, w) at the same resolution, with classes held
    fixed by whoever made it; `maps`: those of `images` where they are known already. Two copies are made: one with
    Gaussian noise of `noise` grey values drawn from `rng` (cut off at 0 and 255), and one moved `shift` pixels down
    and right over the edges, whose maps are moved back. `explain` sees 2 n images, and n more without `maps`. Raises
    InputError for shapes that do not fit.
    """
    maps = explain(images) if maps is None else maps
    noisy = np.clip(images + rng.normal(0, noise, images.shape).astype(np.float32), 0, 255)
    shifted = np.roll(images, (shift, shift), axis=(1, 2))
    back = np.roll(explain(shifted), (-shift, -shift), axis=(-2, -1))
    return stability(maps, np.stack([explain(noisy), back]))


def random_like(maps: Any, rng: np.random.Generator) -> np.ndarray:
    """Null maps: each map shifted over its edges and mirrored, also turned by 90 degrees where it is square.

    Each map of (..., h, w) gets its own random shift, mirroring and turn, all equally likely save the one that leaves
    it in place. The values are the same, so histogram, concentration and smoothness are kept (the one seam where the
    edges meet aside); only the place is lost. Raises InputError for maps of one pixel, which have no other place.
    """
    maps = np.asarray(maps)
    h, w = maps.shape[-2:]
    flat = maps.reshape(-1, h, w)
    if h * w == 1:
        raise InputError(f"A map of one pixel has no other place. Received: shape {maps.shape}.")
    # Mirroring two pixels is the same as shifting them by one.
    kinds = (2 if h == w else 1, 2 if h > 2 else 1, 2 if w > 2 else 1, h, w)
    # Number 0 is: not turned, not mirrored, shifted by 0. It is the one that is never drawn.
    numbers = rng.integers(1, np.prod(kinds), size=len(flat))
    turned, down, across, shift_y, shift_x = (x[:, None] for x in np.unravel_index(numbers, kinds))
    if h == w:
        flat = np.where(turned[..., None] == 1, flat.swapaxes(1, 2), flat)
    rows = ((1 - 2 * down) * np.arange(h) + shift_y) % h  # (maps, h)
    columns = ((1 - 2 * across) * np.arange(w) + shift_x) % w
    return flat[np.arange(len(flat))[:, None, None], rows[:, :, None], columns[:, None, :]].reshape(maps.shape)
