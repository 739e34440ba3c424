"""Resizing an image or mask to the model's input, and a map back to the file's own geometry."""

import cv2
import numpy as np

from xaitune.config.choices import RESIZE
from xaitune.errors import ImageError


def resize_image(image: np.ndarray, size: tuple[int, int], resize: str = "stretch") -> np.ndarray:
    """The image at `size` (height, width) in its own dtype: area interpolation along a side that shrinks, linear
    along one that grows.

    `resize="pad"` keeps the aspect, centres the image and fills the rest with black.
    """
    top, left, height, width = _inner_box(image.shape[:2], size, resize)
    shrunk = (min(image.shape[1], width), min(image.shape[0], height))
    if shrunk != image.shape[1::-1]:
        image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)
    if shrunk != (width, height):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return _placed(image, size, top, left)


def resize_mask(mask: np.ndarray, size: tuple[int, int], resize: str = "stretch") -> np.ndarray:
    """A bool mask (h, w) at `size` by the nearest pixel, in the geometry of `resize_image`; padding is False."""
    top, left, height, width = _inner_box(mask.shape[:2], size, resize)
    small = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return _placed(small, size, top, left).astype(bool)


def map_to_image(
    map_: np.ndarray,
    image_shape: tuple[int, ...],
    input_size: tuple[int, int],
    resize: str = "stretch",
    *,
    nearest: bool = False,
) -> np.ndarray:
    """A map over the model's input, (h', w'), in the file's own geometry, `image_shape[:2]`: `resize_image` undone.

    `input_size` is the model's input (height, width), which the map covers from edge to edge; the padding of
    `resize="pad"` is cut away. Bilinear with half-pixel centres, the edge continued (float32, or float64 where the
    map is); `nearest` keeps the values and dtype, for labels and masks.
    """
    box = _inner_box((image_shape[0], image_shape[1]), input_size, resize)
    rows = _source_positions(image_shape[0], box[0], box[2], input_size[0], map_.shape[0])
    columns = _source_positions(image_shape[1], box[1], box[3], input_size[1], map_.shape[1])
    if nearest:
        return map_[np.ix_(np.floor(rows + 0.5).astype(int), np.floor(columns + 0.5).astype(int))]
    dtype = np.float64 if map_.dtype == np.float64 else np.float32
    out = _linear_weights(rows, map_.shape[0]) @ map_ @ _linear_weights(columns, map_.shape[1]).T
    return out.astype(dtype)


def _inner_box(shape: tuple[int, ...], size: tuple[int, int], resize: str) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the image inside the model's input."""
    if resize not in RESIZE:
        raise ImageError(f"resize must be one of {', '.join(RESIZE)}. Received: resize={resize!r}.")
    if resize == "stretch":
        return 0, 0, size[0], size[1]
    scale = min(size[0] / shape[0], size[1] / shape[1])
    height = min(size[0], max(1, round(shape[0] * scale)))
    width = min(size[1], max(1, round(shape[1] * scale)))
    return (size[0] - height) // 2, (size[1] - width) // 2, height, width


def _placed(inner: np.ndarray, size: tuple[int, int], top: int, left: int) -> np.ndarray:
    if inner.shape[:2] == tuple(size):
        return inner
    out = np.zeros((*size, *inner.shape[2:]), inner.dtype)
    out[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return out


def _source_positions(length: int, start: int, inner: int, whole: int, cells: int) -> np.ndarray:
    """Where the pixel centres of a file's side lie in a map of `cells` along the input's side, in 0..cells - 1."""
    in_input = start + (np.arange(length) + 0.5) * inner / length
    return np.clip(in_input * cells / whole - 0.5, 0, cells - 1)


def _linear_weights(positions: np.ndarray, cells: int) -> np.ndarray:
    """(len(positions), cells) weights of linear interpolation."""
    low = np.floor(positions).astype(int)
    part = positions - low
    rows = np.arange(len(positions))
    weights = np.zeros((len(positions), cells))
    weights[rows, low] = 1 - part
    weights[rows, np.minimum(low + 1, cells - 1)] += part
    return weights
