"""Images with more than 8 bits per channel: what their numbers mean, and the numbers themselves.

Pillow's mode does not tell 12 bits from 16, grey from inverted grey, or signed from unsigned numbers, and its decoder drops
the lower byte of a colour. So the file's own header is asked first, and OpenCV decodes what Pillow cannot.
"""

import re
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

FULL = 65535  # the largest value of 16 bits
_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _FORMAT = 258, 262, 277, 284, 339  # TIFF tags
_WHITE_IS_ZERO, _RGB, _SEPARATE, _SIGNED = 0, 2, 2, 2  # their values
_CODESTREAM = b"\xff\x4f\xff\x51"  # JPEG 2000: start of the codestream and of the header that has the precision
_PRECISION = 42  # bytes from there to the bits of the first channel


class Unsupported(ValueError):
    """A whole file whose numbers have no known meaning; the text continues 'NAME ...' and says what to do."""


class Depth(NamedTuple):
    """What the numbers of a file mean.

    `bits` per channel: 8 (or fewer), 16 (or 9 to 15) or 32. `top`: what white is. `declared`: whether the file's header says
    so, and not only that there are 16 bits. `inverted`: whether 0 is white. `signed`: whether values may be negative.
    """

    bits: int
    top: int = 255
    declared: bool = True
    inverted: bool = False
    signed: bool = False

    def white(self, bit_depth: int | None) -> int:
        """The value that becomes 255; `bit_depth`: the bits that a camera fills, of files that only say 16."""
        return self.top if self.declared or bit_depth is None else (1 << bit_depth) - 1


def depth_of(image: Image.Image, data: bytes) -> Depth:
    """The depth of an opened image, from its header `data`."""
    if image.format == "PNG":
        return Depth(16, FULL, declared=False) if data[24] == 16 else Depth(8)
    if image.format == "TIFF":
        return _tiff_depth(image)
    if image.format == "PPM":
        if image.mode != "I":
            return Depth(32 if image.mode == "F" else 8)
        return Depth(16, FULL, declared=_largest_value(data) != FULL)  # Pillow scales the largest value to FULL
    if image.format == "JPEG2000" and image.mode.startswith("I"):
        start = data.find(_CODESTREAM)
        bits = (data[start + _PRECISION] & 0x7F) + 1 if start >= 0 else 16
        return Depth(16, (1 << bits) - 1 << 16 - bits, declared=bits < 16)  # Pillow shifts fewer bits up to 16
    return Depth(32 if image.mode in ("I", "F") else 8)


def _tiff_depth(image: Image.Image) -> Depth:
    tags = image.tag_v2  # type: ignore[attr-defined]
    deepest = max(_all(tags.get(_BITS, 1)))
    signed = _SIGNED in _all(tags.get(_FORMAT, 1))
    if deepest <= 8:
        return Depth(8, signed=signed)
    if deepest > 16 or image.mode == "F":
        return Depth(32)
    return Depth(16, (1 << deepest) - 1, deepest < 16, tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO, signed)


def _largest_value(data: bytes) -> int:
    """The largest value that the header of a PGM or PPM names, after the magic number, width and height."""
    return int(re.sub(rb"#[^\n]*\n", b" ", data[:1024]).split(None, 4)[3])


def _all(value: object) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (int(value),)  # type: ignore[call-overload]


def deep_values(image: Image.Image, data: bytes, depth: Depth) -> np.ndarray:
    """The numbers of a loaded image of 16 bits as they are in the file, none of them negative: (h, w) or (h, w, 3 or 4).

    Raises Unsupported for channels in separate planes, other colours than RGB, and negative values; ValueError for damage.
    """
    if image.format == "TIFF":
        return _tiff_values(image, data, depth)
    return np.asarray(image) if image.mode.startswith("I") else _colours(image, data)


def scaled(values: np.ndarray, depth: Depth, bit_depth: int | None) -> np.ndarray:
    """float32 (h, w, 3 or 4) in 0..255 of the numbers of a deep image, (h, w) or (h, w, 3 or 4). Raises Unsupported."""
    white = depth.white(bit_depth)
    if (highest := int(values.max())) > white:
        raise Unsupported(
            f"has the value {highest}, above {white}, the largest of bit depth {white.bit_length()}. "
            "Give a larger --bit-depth, or none."
        )
    pixels = (white - values if depth.inverted else values).astype(np.float32) / np.float32(white / 255)
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def signed_bytes(image: Image.Image) -> np.ndarray:
    """(h, w) uint8 of a loaded TIFF of signed 8-bit numbers, which Pillow takes for unsigned. Raises Unsupported."""
    return _not_negative(np.asarray(image).view(np.int8)).astype(np.uint8)


def _tiff_values(image: Image.Image, data: bytes, depth: Depth) -> np.ndarray:
    tags = image.tag_v2  # type: ignore[attr-defined]
    samples = tags.get(_SAMPLES, 1)
    if samples > 1 and tags.get(_PLANAR) == _SEPARATE:
        raise Unsupported(
            "has its 16-bit channels in separate planes, which is not read. Save it with interleaved ones."
        )
    if samples > 1 and tags.get(_PHOTOMETRIC) != _RGB:
        raise Unsupported(
            f"has 16-bit colours that are not RGB (mode {image.mode}), which is not read. Save it as RGB."
        )
    if samples > 1:
        return _colours(image, data)
    if not depth.signed:
        return np.asarray(image)
    values = _decoded(image, data)  # Pillow mixes up the bytes of some signed files
    return _not_negative(values.view(np.int16)).astype(np.uint16)


def _colours(image: Image.Image, data: bytes) -> np.ndarray:
    deep = _decoded(image, data)
    if deep.dtype != np.uint16 or deep.ndim != 3 or deep.shape[2] not in (3, 4):
        raise ValueError(f"16-bit pixels of mode {image.mode} cannot be decoded")
    return deep[..., [2, 1, 0, 3][: deep.shape[2]]]


def _decoded(image: Image.Image, data: bytes) -> np.ndarray:
    """The image as OpenCV decodes it, BGR, with a TIFF's orientation applied as Pillow applies it."""
    deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if deep is None or deep.dtype.itemsize != 2:
        raise ValueError(f"16-bit pixels of mode {image.mode} cannot be decoded")
    if deep.shape[:2] != image.size[::-1]:
        raise ValueError("rotated 16-bit pixels cannot be decoded")
    return deep


def _not_negative(values: np.ndarray) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0:
        raise Unsupported(
            f"has signed values from {low} to {high}, so what is black and white is unknown. "
            "Save it as unsigned 8 or 16 bits, with black at 0."
        )
    return values
