"""Images that a user holds in memory, in whatever form, as arrays of raw RGB."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xaitune.errors import ImageError

WANTED = "An array of images must be (n, height, width, 3) RGB in 0..255"


def as_arrays(images: Any) -> list[np.ndarray] | None:
    """Images (h, w, 3) in 0..255 as uint8 or float32, or None for paths.

    Takes an array or tensor (of numpy, TensorFlow, torch or JAX) of one image or several, a PIL image, a list of any of
    these, or a tf.data.Dataset of batches or images, labels aside. Grey images get three channels. Raises ImageError for
    anything else, for values outside 0..255, and for fractions that never exceed 1.
    """
    if isinstance(images, str | Path) or hasattr(images, "__fspath__"):
        return None
    if _is_dataset(images):
        images = [_without_labels(element) for element in images]
    if _is_array(images) or isinstance(images, Image.Image):
        arrays = _split(images)
    elif isinstance(images, Iterable):
        items = list(images)
        if not items or any(isinstance(item, str) or hasattr(item, "__fspath__") for item in items):
            return None  # `expand_images` says what is wrong with them
        arrays = [array for item in items for array in _split(item)]
    else:
        raise ImageError(f"Images must be paths, arrays, tensors or PIL images. Received: {type(images).__name__}.")
    if not arrays:
        raise ImageError(f"{WANTED}. Received: no image.")
    top = max(float(array.max()) for array in arrays)
    if 0 < top <= 1 and any(array.dtype != np.uint8 for array in arrays):
        raise ImageError(
            f"The values of the images are fractions up to {top:.3g}, but raw values 0..255 are needed: pass images * 255. "
            "(If they are that dark, pass them as uint8.)"
        )
    return arrays


def _is_dataset(images: Any) -> bool:
    return hasattr(images, "element_spec") and isinstance(images, Iterable)


def _without_labels(element: Any) -> Any:
    return element[0] if isinstance(element, tuple) else element


def _is_array(images: Any) -> bool:
    return isinstance(images, np.ndarray) or hasattr(images, "__array__") or hasattr(images, "detach")


def _split(images: Any) -> list[np.ndarray]:
    """The images of one item: an image, or a batch of them."""
    if isinstance(images, Image.Image):
        return [np.asarray(images.convert("RGB"))]
    if not _is_array(images):
        raise ImageError(
            f"A list of images must hold arrays, tensors, PIL images or paths. Received: {type(images).__name__}."
        )
    array = np.asarray(images.detach().cpu() if hasattr(images, "detach") else images)
    if array.dtype == object or not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise ImageError(f"{WANTED}. Received: values of type {array.dtype}.")
    shape = array.shape
    if array.ndim == 2 or (array.ndim == 4 and shape[-1] == 1) or (array.ndim == 3 and shape[-1] == 1):
        array = np.repeat(array if array.ndim > 2 else array[..., None], 3, axis=-1)
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or array.shape[-1] != 3:
        first = array.ndim == 4 and array.shape[1] == 3
        hint = " Its channels come first: pass images.transpose(0, 2, 3, 1)." if first else ""
        raise ImageError(f"{WANTED}. Received: shape {shape}.{hint}")
    if not len(array):
        raise ImageError(f"{WANTED}. Received: shape {shape}.")
    low, high = float(np.min(array)), float(np.max(array))
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 255:
        raise ImageError(
            f"An array of images must hold raw values 0..255, not preprocessed ones. Received: {low:.3g}..{high:.3g}."
        )
    return list(array if array.dtype in (np.uint8, np.float32) else array.astype(np.float32))
