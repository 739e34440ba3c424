"""Maps as arrays: the steps that the scores of heatmaps have in common, such as checks and chunks of bounded memory."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import rankdata

from xaitune.errors import InputError

CHUNK = 2**21  # pixels scored at once: 16 MB of float64


def as_maps(maps: Any, name: str = "maps") -> np.ndarray:
    """Maps (..., height, width) as floats. Raises InputError for other shapes and for NaN or infinity."""
    maps = np.asarray(maps)
    maps = maps.astype(np.float64 if maps.dtype.kind in "iub" else np.result_type(maps.dtype, np.float32), copy=False)
    if maps.ndim < 2 or maps.size == 0:
        raise InputError(f"{name} must be (..., height, width). Received: shape {maps.shape}.")
    if not np.isfinite(maps).all():
        raise InputError(f"{name} must be finite. Received NaN or infinity in {name} of shape {maps.shape}.")
    return maps


def check_masks(masks: Any, maps: np.ndarray) -> np.ndarray:
    """Masks as booleans, broadcast to the maps' shape. Raises InputError where that is not possible."""
    masks = np.asarray(masks) != 0
    try:
        return np.broadcast_to(masks, maps.shape)
    except ValueError:
        raise InputError(
            f"masks must broadcast to the maps' shape {maps.shape}: resize them first. Received: {masks.shape}."
        ) from None


def by_chunk(score: Callable[..., np.ndarray], *arrays: np.ndarray) -> Any:
    """`score` of the maps flattened to (rows, pixels), a bounded number of pixels at a time; leading axes are kept."""
    leading, pixels = arrays[0].shape[:-2], arrays[0].shape[-2] * arrays[0].shape[-1]
    flat = [a.reshape(-1, pixels) for a in arrays]
    step = max(1, CHUNK // pixels)
    scores = np.concatenate([score(*(a[i : i + step] for a in flat)) for i in range(0, len(flat[0]), step)])
    return scores.reshape(leading + scores.shape[1:])[()]


def share(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, NaN where bottom is 0."""
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def positive_part(maps: np.ndarray) -> np.ndarray:
    """Maps (rows, pixels) with negative values as 0, and constant 1 where none is positive; float64 against cancellation."""
    relevance = np.maximum(maps, 0).astype(np.float64)
    relevance[relevance.max(-1) == 0] = 1
    return relevance


def random_like(maps: Any, rng: np.random.Generator) -> np.ndarray:
    """Null maps: each map shifted across its edges and mirrored at random, and rotated by 90 degrees where it is square.

    Each map of (..., h, w) gets its own random shift, mirroring and rotation, all equally likely except the one that
    leaves it in place. The values are the same, so histogram, concentration and smoothness are kept (except at the seam
    where the edges meet); only the position is lost. Raises InputError for maps of one pixel, which have no other
    position.
    """
    maps = np.asarray(maps)
    h, w = maps.shape[-2:]
    flat = maps.reshape(-1, h, w)
    if h * w == 1:
        raise InputError(f"A map of one pixel cannot be moved elsewhere. Received: shape {maps.shape}.")
    # Mirroring two pixels is the same as shifting them by one.
    kinds = (2 if h == w else 1, 2 if h > 2 else 1, 2 if w > 2 else 1, h, w)
    # Number 0 (not rotated, not mirrored, shifted by 0) is never drawn.
    numbers = rng.integers(1, np.prod(kinds), size=len(flat))
    rotated, down, across, shift_y, shift_x = (x[:, None] for x in np.unravel_index(numbers, kinds))
    if h == w:
        flat = np.where(rotated[..., None] == 1, flat.swapaxes(1, 2), flat)
    rows = ((1 - 2 * down) * np.arange(h) + shift_y) % h  # (maps, h)
    columns = ((1 - 2 * across) * np.arange(w) + shift_x) % w
    return flat[np.arange(len(flat))[:, None, None], rows[:, :, None], columns[:, None, :]].reshape(maps.shape)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation of each row (ties averaged); NaN where a row is constant."""
    a, b = (rankdata(x, axis=-1) for x in (a, b))
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    return share((a * b).sum(-1), np.sqrt((a * a).sum(-1) * (b * b).sum(-1)))
