"""Does a heatmap stay the same when its input changes a little?"""

from collections.abc import Callable
from typing import Any

import numpy as np

from xaitune.errors import InputError
from xaitune.evaluate.maps import by_chunk, check_maps, rank_correlation

NOISE, SHIFT = 5.0, 2  # grey values, pixels: the small input changes of the stability measure


def map_stability(maps: Any, changed: Any) -> Any:
    """Mean Spearman correlation of a map with the maps of slightly changed inputs, -1..1.

    `maps` (..., h, w); `changed` (k, ..., h, w), the maps of k changed copies of the same inputs, moved back where the
    change moved the image. NaN where the map itself is constant; a changed map that became constant counts 0, since
    nothing of the order was kept. Raises InputError for shapes that do not fit.
    """
    maps, changed = check_maps(maps), check_maps(changed, "changed")
    if changed.shape[1:] != maps.shape:
        raise InputError(f"changed must be (copies, *{maps.shape}). Received: shape {changed.shape}.")
    rows = np.broadcast_to(maps, changed.shape)
    found = np.asarray(by_chunk(rank_correlation, rows, changed))  # (k, ...)
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
    return map_stability(maps, np.stack([explain(noisy), back]))
