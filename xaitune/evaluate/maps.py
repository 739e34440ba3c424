"""Maps as arrays: what every score of a heatmap does first. Checks, chunks of bounded memory, shares."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import rankdata

from xaitune.errors import InputError

CHUNK = 2**21  # pixels sorted at once: 16 MB of float64


def check_maps(maps: Any, name: str = "maps") -> np.ndarray:
    """Maps (..., height, width) as floats. Raises InputError for other shapes and for values that are not finite."""
    maps = np.asarray(maps)
    maps = maps.astype(np.float64 if maps.dtype.kind in "iub" else np.result_type(maps.dtype, np.float32), copy=False)
    if maps.ndim < 2 or maps.size == 0:
        raise InputError(f"{name} must be (..., height, width). Received: shape {maps.shape}.")
    if not np.isfinite(maps).all():
        raise InputError(f"{name} must be finite. Received NaN or infinity in {name} of shape {maps.shape}.")
    return maps


def check_masks(masks: Any, maps: np.ndarray) -> np.ndarray:
    """Masks as booleans, broadcast to the maps' shape. Raises InputError where they do not fit."""
    masks = np.asarray(masks) != 0
    try:
        return np.broadcast_to(masks, maps.shape)
    except ValueError:
        raise InputError(
            f"masks must fit the maps' shape {maps.shape}, resized beforehand. Received: {masks.shape}."
        ) from None


def by_chunk(score: Callable[..., np.ndarray], *arrays: np.ndarray) -> Any:
    """`score` of flattened maps (rows, pixels), a bounded number of pixels at a time; axes in front are kept."""
    front, pixels = arrays[0].shape[:-2], arrays[0].shape[-2] * arrays[0].shape[-1]
    flat = [a.reshape(-1, pixels) for a in arrays]
    step = max(1, CHUNK // pixels)
    parts = [score(*(a[i : i + step] for a in flat)) for i in range(0, len(flat[0]), step)]
    found = np.concatenate(parts)
    return found.reshape(front + found.shape[1:])[()]


def share(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, NaN where bottom is 0."""
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def positive_part(maps: np.ndarray) -> np.ndarray:
    """Negative values as 0, and maps (rows, pixels) without positive ones as constant 1; float64 against cancellation."""
    relevance = np.maximum(maps, 0).astype(np.float64)
    relevance[relevance.max(-1) == 0] = 1
    return relevance


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


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row-wise rank correlation (ties averaged); NaN where a row is constant."""
    a, b = (rankdata(x, axis=-1) for x in (a, b))
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    return share((a * b).sum(-1), np.sqrt((a * a).sum(-1) * (b * b).sum(-1)))
