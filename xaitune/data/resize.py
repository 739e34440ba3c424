"""Resizing of images and masks to the model's input size, and of maps back to the file's own size."""

import cv2
import numpy as np

from xaitune.config.choices import RESIZE
from xaitune.errors import ImageError


def resize_image(image: np.ndarray, size: tuple[int, int], resize: str = "stretch") -> np.ndarray:
    """Resize an image to `size` (height, width), keeping its dtype.

    Area interpolation along a side that shrinks, linear along one that grows. `resize="pad"` keeps the aspect ratio,
    centres the image and fills the rest with black.

    Examples:
        >>> image = np.full((1, 2, 3), 200, np.uint8)
        >>> resize_image(image, (4, 4), "pad")[:, :, 0].tolist()
        [[0, 0, 0, 0], [200, 200, 200, 200], [200, 200, 200, 200], [0, 0, 0, 0]]
    """
    top, left, height, width = _inner_box(image.shape[:2], size, resize)
    shrunk = (min(image.shape[1], width), min(image.shape[0], height))
    if shrunk != image.shape[1::-1]:
        image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)
    if shrunk != (width, height):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return _placed(image, size, top, left)


def resize_mask(mask: np.ndarray, size: tuple[int, int], resize: str = "stretch") -> np.ndarray:
    """Resize a bool mask (h, w) to `size` by nearest neighbour, placed as by `resize_image`; padding is False."""
    return resize_values(mask.astype(np.uint8), size, resize).astype(bool)


def resize_values(values: np.ndarray, size: tuple[int, int], resize: str = "stretch", padding: int = 0) -> np.ndarray:
    """Resize class numbers (h, w) uint8 to `size` by nearest neighbour, placed as by `resize_image`; filled with `padding`."""
    top, left, height, width = _inner_box(values.shape[:2], size, resize)
    resized = cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return _placed(resized, size, top, left, padding)


def map_to_image(
    map_: np.ndarray,
    image_shape: tuple[int, ...],
    input_size: tuple[int, int],
    resize: str = "stretch",
    *,
    nearest: bool = False,
) -> np.ndarray:
    """Resize a map over the model's input, (h', w'), to the file's own size, `image_shape[:2]`; undoes `resize_image`.

    `input_size` is the model's input (height, width), which the map covers from edge to edge; the padding of
    `resize="pad"` is cropped. Interpolation is bilinear with half-pixel centres and constant beyond the outer ones;
    the result is float32, or float64 if the map is. `nearest` keeps values and dtype, for labels and masks.

    Examples:
        >>> heat = np.array([[0.0, 1.0]])
        >>> map_to_image(heat, (1, 4), (32, 32)).tolist()
        [[0.0, 0.25, 0.75, 1.0]]
    """
    top, left, height, width = _inner_box((image_shape[0], image_shape[1]), input_size, resize)
    rows = _source_positions(image_shape[0], top, height, input_size[0], map_.shape[0])
    columns = _source_positions(image_shape[1], left, width, input_size[1], map_.shape[1])
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


def _placed(inner: np.ndarray, size: tuple[int, int], top: int, left: int, padding: int = 0) -> np.ndarray:
    if inner.shape[:2] == tuple(size):
        return inner
    out = np.full((*size, *inner.shape[2:]), padding, inner.dtype)
    out[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return out


def _source_positions(length: int, start: int, inner: int, whole: int, cells: int) -> np.ndarray:
    """(length,) positions of a file's pixel centres along one side of a map, in cells 0..cells - 1.

    The file's side fills the model's input side, `whole` pixels, from `start` over `inner` pixels.
    """
    in_input = start + (np.arange(length) + 0.5) * inner / length
    return np.clip(in_input * cells / whole - 0.5, 0, cells - 1)


def _linear_weights(positions: np.ndarray, cells: int) -> np.ndarray:
    """(len(positions), cells) weights of linear interpolation."""
    low = np.floor(positions).astype(int)
    fraction = positions - low
    rows = np.arange(len(positions))
    weights = np.zeros((len(positions), cells))
    weights[rows, low] = 1 - fraction
    weights[rows, np.minimum(low + 1, cells - 1)] += fraction
    return weights
