"""Stability of heatmaps under small changes of the input."""

from collections.abc import Callable
from typing import Any

import numpy as np

from xaitune.errors import InputError
from xaitune.evaluate.maps import as_maps, by_chunk, rank_correlation

NOISE, SHIFT = 5.0, 2  # the small changes of the input: grey values, pixels


def map_stability(maps: Any, changed: Any) -> Any:
    """Mean Spearman correlation of a map with the maps of slightly changed inputs, -1..1.

    `maps` (..., h, w); `changed` (k, ..., h, w), the maps of k changed copies of the same inputs, shifted back where
    the change shifted the image. NaN where the map itself is constant; a changed map that is constant counts as 0,
    since it keeps nothing of the order. Raises InputError for shapes that do not fit.
    """
    maps, changed = as_maps(maps), as_maps(changed, "changed")
    if changed.shape[1:] != maps.shape:
        raise InputError(f"changed must be (copies, *{maps.shape}). Received: shape {changed.shape}.")
    rows = np.broadcast_to(maps, changed.shape)
    correlations = np.asarray(by_chunk(rank_correlation, rows, changed))  # (k, ...)
    constant = maps.max((-2, -1)) == maps.min((-2, -1))
    return np.where(constant, np.nan, np.nan_to_num(correlations).mean(0))[()]


def input_stability(
    explain: Callable[[np.ndarray], Any],
    images: np.ndarray,
    rng: np.random.Generator,
    *,
    maps: Any = None,
    noise: float = NOISE,
    shift: int = SHIFT,
) -> Any:
    """`map_stability` of the maps that `explain` returns, under a little noise and a small shift of the images.

    `images` (n, h, w, 3) in 0..255; `explain` returns their maps (n, ..., h, w) at the same resolution, always for the
    same classes; `maps`: those of `images`, if they are known already. Two copies of the images are explained: one with
    Gaussian noise of `noise` grey values drawn from `rng` (clipped to 0..255), and one shifted by `shift` pixels down
    and right across the edges, whose maps are shifted back. `explain` is called with 2 n images, and with n more
    without `maps`. Raises InputError for shapes that do not fit.
    """
    maps = explain(images) if maps is None else maps
    noisy = np.clip(images + rng.normal(0, noise, images.shape).astype(np.float32), 0, 255)
    shifted = np.roll(images, (shift, shift), axis=(1, 2))
    back = np.roll(explain(shifted), (-shift, -shift), axis=(-2, -1))
    return map_stability(maps, np.stack([explain(noisy), back]))
