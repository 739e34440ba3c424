"""Maps as arrays: what every score of a heatmap does first. Checks, chunks of bounded memory, shares."""

from collections.abc import Callable
from typing import Any

import numpy as np

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
