"""Reading and checking of image files: every file is read as RGB 0..255, (height, width, 3).

The rules by kind of file:

    8 bit                      uint8
    16 bit                     float32, value / 257, with fractions
    grey, black-and-white      copied to the three channels
    palette                    expanded
    transparency of any kind   composited on white (in a mask on black)
    CMYK, YCbCr, LAB           converted by Pillow
    EXIF orientation           applied
    several pages or frames    the first one
    32 bit, float              refused: the value range is unknown

A file is read as bytes and decoded from memory, so any path that Python can open works.
"""

import io
import os
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from xaitune.errors import ImageError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MAX_PIXELS = 100_000_000
MIN_SIDE = 8
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
_ORIENTATION, _BITS_PER_SAMPLE = 0x0112, 258
# EXIF orientation -> (transpose first, then flip up-down, then flip left-right)
_FLIPS = {2: (0, 0, 1), 3: (0, 1, 1), 4: (0, 1, 0), 5: (1, 0, 0), 6: (1, 0, 1), 7: (1, 1, 1), 8: (1, 1, 0)}
_PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class ImageHeader:
    """A file's header: `height` and `width` in pixels after EXIF rotation, Pillow's `mode` and `format`, `bits` per channel."""

    height: int
    width: int
    mode: str
    format: str
    bits: int = 8


def read_image(path: _PathLike) -> np.ndarray:
    """Read an image as RGB 0..255, (height, width, 3): uint8, or float32 for a 16-bit file (value / 257).

    Raises ImageError for a missing, unreadable, damaged, too large or too small file.
    """
    return decode_image(read_bytes(path), path)


def image_header(path: _PathLike) -> ImageHeader:
    """Read size, mode and format from the header, without decoding pixels. Raises ImageError as `read_image` does."""
    return parse_header(read_bytes(path), path)


def read_mask(path: _PathLike) -> np.ndarray:
    """Read a mask at the file's own size, (height, width) bool: True where any channel exceeds half of its range.

    A file whose largest value is 1 is read as 0/1. Raises ImageError as `read_image` does.
    """
    pixels = decode_image(read_bytes(path), path, background=0)
    top = pixels.max()
    return pixels.max(axis=2) > (0.5 if 0 < top <= 1 else 127.5)


def read_bytes(path: _PathLike) -> bytes:
    """The content of a file. Raises ImageError if it is missing, a folder, empty or unreadable."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageError(f"No image at {os.fspath(path)}. Check the path.") from None
    except IsADirectoryError:
        raise ImageError(f"{os.fspath(path)} is a folder, but an image file is needed.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"Cannot read {os.fspath(path)}: {reason}.") from None
    if not data:
        raise ImageError(f"{os.fspath(path)} is empty (0 bytes). Copy it again or remove it.")
    return data


def parse_header(data: bytes, name: _PathLike) -> ImageHeader:
    """The header of an image file's bytes; error messages mention `name`. Raises ImageError."""
    with _opened(data, name) as image:
        return _header(image, data, name)


def decode_image(data: bytes, name: _PathLike, *, background: int = 255) -> np.ndarray:
    """Decode an image file's bytes as `read_image` does; transparency is composited on the grey value `background`."""
    with _opened(data, name) as image:
        header = _header(image, data, name)
        orientation = 1 if header.format == "TIFF" else _orientation(image)  # Pillow rotates TIFF files itself
        try:
            image.load()
            pixels = _deep_pixels(image, data) if header.bits == 16 else _pixels(image, background)
        except Exception as error:  # on damaged files the decoders raise any kind of exception
            raise ImageError(f"{os.fspath(name)} is damaged or cut short: {_brief(error)}. Copy it again.") from None
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:] / 255.0
        pixels = (pixels[..., :3] * alpha + background * (1 - alpha)).astype(np.float32)
    return np.ascontiguousarray(_oriented(pixels, orientation))


def check_pixels(data: bytes, name: _PathLike) -> None:
    """Raise ImageError if the pixels cannot be decoded.

    JPEGs are decoded at an eighth of their size, which reads every byte at a fraction of the cost.
    """
    with _opened(data, name) as image:
        _header(image, data, name)
        try:
            image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
        except Exception as error:  # on damaged files the decoders raise any kind of exception
            raise ImageError(f"{os.fspath(name)} is damaged or cut short: {_brief(error)}. Copy it again.") from None


def expand_images(images: _PathLike | Iterable[_PathLike]) -> list[Path]:
    """The image files given by a path, several paths or a folder (searched recursively, sorted by name).

    In a folder, hidden files and files with a suffix not in IMAGE_SUFFIXES are ignored; a file that is named itself is
    always included. Raises ImageError if a path does not exist or no image is found.
    """
    given = [images] if isinstance(images, str | os.PathLike) else list(images)
    paths: list[Path] = []
    for item in map(Path, given):
        if item.is_dir():
            in_folder = sorted(p for p in item.rglob("*") if is_image_name(p.relative_to(item)) and p.is_file())
            if not in_folder:
                raise ImageError(f"No images in {item}. Known suffixes: {' '.join(IMAGE_SUFFIXES)}.")
            paths += in_folder
        elif item.exists():
            paths.append(item)
        else:
            raise ImageError(f"No image at {item}. Check the path.")
    if not paths:
        raise ImageError("No images were given. Name one or more images, or a folder.")
    return paths


def is_image_name(path: Path) -> bool:
    """Whether a relative path has an image suffix and no hidden part."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in path.parts)


# ---- decoding

_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_filters: Any = None


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Suppress Pillow's warnings.

    `warnings.catch_warnings` is not thread-safe, so the first thread to enter sets the filter and the last one to leave
    restores the old filters.
    """
    global _quiet_depth, _quiet_filters
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                _quiet_filters.__exit__(None, None, None)


@contextmanager
def _opened(data: bytes, name: _PathLike) -> Iterator[Image.Image]:
    with _quiet_pillow():
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError:
            raise ImageError(
                f"{os.fspath(name)} is too large: its header declares more than {MAX_PIXELS:,} pixels. "
                "Scale it down or cut it into parts."
            ) from None
        except Exception:  # on damaged headers Pillow's plugins raise any kind of exception
            raise ImageError(
                f"{os.fspath(name)} is not an image in a known format (it begins with {data[:8]!r}). "
                f"Known formats: {', '.join(s[1:] for s in IMAGE_SUFFIXES)}."
            ) from None
        with image:
            yield image


def _header(image: Image.Image, data: bytes, name: _PathLike) -> ImageHeader:
    """The header of an opened image; checks its size and bit depth."""
    width, height = image.size
    if image.format != "TIFF" and _orientation(image) >= 5:
        width, height = height, width
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{os.fspath(name)} is too large: {height:,} x {width:,} pixels, the limit is {MAX_PIXELS:,} in total. "
            "Scale it down or cut it into parts."
        )
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            f"{os.fspath(name)} is too small: {height} x {width} pixels, each side must have at least {MIN_SIDE}."
        )
    bits = _bits(image, data)
    if bits > 16:
        raise ImageError(
            f"{os.fspath(name)} has {bits} bits per channel (mode {image.mode}), so its value range is unknown. "
            "Convert it to 8 or 16 bits."
        )
    return ImageHeader(height, width, image.mode, "JPEG" if image.format == "MPO" else str(image.format), bits)


def _bits(image: Image.Image, data: bytes) -> int:
    """Bits per channel in the file: 8 (or fewer), 16 or 32. Pillow's mode hides the 16 bits of a colour image."""
    if image.format == "PNG":
        return 16 if data[24] == 16 else 8
    if image.format == "TIFF":
        depths = image.tag_v2.get(_BITS_PER_SAMPLE, (1,))  # type: ignore[attr-defined]
        deepest = max(depths if isinstance(depths, tuple) else (depths,))
        return 8 if deepest <= 8 else 16 if deepest <= 16 and image.mode != "F" else 32
    return 32 if image.mode in ("I", "F") else 8


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # an image with damaged EXIF data is still usable
        return 1


def _pixels(image: Image.Image, background: int) -> np.ndarray:
    """uint8 (h, w, 3) of a loaded 8-bit image."""
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        canvas = Image.new("RGBA", image.size, (background,) * 3 + (255,))
        return np.asarray(Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB"))
    if image.mode == "L":
        return np.repeat(np.asarray(image)[..., None], 3, axis=2)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _deep_pixels(image: Image.Image, data: bytes) -> np.ndarray:
    """float32 (h, w, 3 or 4) in 0..255 of a loaded 16-bit image."""
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.float32)[..., None]
        return np.repeat(pixels / 257, 3, axis=2)
    deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # Pillow would drop the lower byte
    if deep is None or deep.dtype != np.uint16 or deep.ndim != 3 or deep.shape[2] not in (3, 4):
        raise ValueError(f"16-bit pixels of mode {image.mode} cannot be decoded")
    if deep.shape[:2] != image.size[::-1]:
        raise ValueError("rotated 16-bit pixels cannot be decoded")
    return deep[..., [2, 1, 0, 3][: deep.shape[2]]].astype(np.float32) / 257


def _oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    transpose, up_down, left_right = _FLIPS.get(orientation, (0, 0, 0))
    if transpose:
        pixels = pixels.transpose(1, 0, 2)
    return pixels[:: -1 if up_down else 1, :: -1 if left_right else 1]


def _brief(error: BaseException) -> str:
    return str(error).split("\n")[0].rstrip(".") or type(error).__name__
