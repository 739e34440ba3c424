"""Read, check and resize one image: every file comes out as RGB 0..255 (height, width, 3).

The rules, by kind of file:

    8 bit                      uint8
    16 bit                     float32, value / 257, the fraction kept
    grey, black-and-white      copied to the three channels
    palette                    expanded
    transparency of any kind   composited on white (in a mask on black)
    CMYK, YCbCr, LAB           converted by Pillow
    EXIF orientation           applied
    several pages or frames    the first one
    32 bit, float              refused: their range is not known

A file is read as bytes and decoded from memory, so any path that Python can open will do.
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
_TURNS = {2: (0, 0, 1), 3: (0, 1, 1), 4: (0, 1, 0), 5: (1, 0, 0), 6: (1, 0, 1), 7: (1, 1, 1), 8: (1, 1, 0)}
_PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class ImageHeader:
    """What a file's header says: `height` and `width` in pixels after EXIF, Pillow's `mode` and `format`, `bits`
    a channel."""

    height: int
    width: int
    mode: str
    format: str
    bits: int = 8


def read_image(path: _PathLike) -> np.ndarray:
    """The image as RGB 0..255, (height, width, 3): uint8, or float32 for a 16-bit file (value / 257).

    Raises ImageError for a missing, unreadable, damaged, too large or too small file.
    """
    return decode_image(read_bytes(path), path)


def image_header(path: _PathLike) -> ImageHeader:
    """Size, mode and format from the header alone; nothing is decoded. Raises ImageError as `read_image` does."""
    return parse_header(read_bytes(path), path)


def read_mask(path: _PathLike) -> np.ndarray:
    """A mask in the file's geometry, (height, width) bool: True where any channel is above half of its range.

    A file whose largest value is 1 is taken as 0/1. Raises ImageError as `read_image` does.
    """
    pixels = decode_image(read_bytes(path), path, background=0)
    top = pixels.max()
    return pixels.max(axis=2) > (0.5 if 0 < top <= 1 else 127.5)


def read_bytes(path: _PathLike) -> bytes:
    """The content of a file. Raises ImageError where it is missing, a folder, empty or not readable."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageError(f"No image at {os.fspath(path)}. Check the path.") from None
    except IsADirectoryError:
        raise ImageError(f"{os.fspath(path)} is a folder, where an image file is needed.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"Cannot read {os.fspath(path)}: {reason}.") from None
    if not data:
        raise ImageError(f"{os.fspath(path)} is empty (0 bytes). Copy it again or remove it.")
    return data


def parse_header(data: bytes, name: _PathLike) -> ImageHeader:
    """The header of an image file's bytes; `name` stands in the message. Raises ImageError."""
    with _opened(data, name) as image:
        return _header(image, data, name)


def decode_image(data: bytes, name: _PathLike, *, background: int = 255) -> np.ndarray:
    """Decode an image file's bytes as `read_image` does; transparency is composited on grey value `background`."""
    with _opened(data, name) as image:
        header = _header(image, data, name)
        turn = 1 if header.format == "TIFF" else _orientation(image)  # Pillow turns a TIFF by itself
        try:
            image.load()
            pixels = _deep_pixels(image, data) if header.bits == 16 else _pixels(image, background)
        except Exception as error:  # a damaged file makes the decoders raise anything
            raise ImageError(f"{os.fspath(name)} is damaged or cut short: {_brief(error)}. Copy it again.") from None
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:] / 255.0
        pixels = (pixels[..., :3] * alpha + background * (1 - alpha)).astype(np.float32)
    return np.ascontiguousarray(_turned(pixels, turn))


def check_pixels(data: bytes, name: _PathLike) -> None:
    """Raise ImageError if the pixels cannot be decoded; JPEGs are decoded at an eighth of their size, which reads
    every byte at a fraction of the cost."""
    with _opened(data, name) as image:
        _header(image, data, name)
        try:
            image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
        except Exception as error:  # a damaged file makes the decoders raise anything
            raise ImageError(f"{os.fspath(name)} is damaged or cut short: {_brief(error)}. Copy it again.") from None


def expand_images(images: _PathLike | Iterable[_PathLike]) -> list[Path]:
    """The image files meant by a path, several paths or a folder (searched in depth, sorted by name).

    Hidden files and other suffixes than IMAGE_SUFFIXES are left out of a folder; a file that is named is taken as
    it is. Raises ImageError where a path does not exist or nothing is found.
    """
    given = [images] if isinstance(images, str | os.PathLike) else list(images)
    found: list[Path] = []
    for item in map(Path, given):
        if item.is_dir():
            inside = sorted(p for p in item.rglob("*") if is_image_name(p.relative_to(item)) and p.is_file())
            if not inside:
                raise ImageError(f"No images in {item}. Known suffixes: {' '.join(IMAGE_SUFFIXES)}.")
            found += inside
        elif item.exists():
            found.append(item)
        else:
            raise ImageError(f"No image at {item}. Check the path.")
    if not found:
        raise ImageError("No images were given. Name an image, several, or a folder.")
    return found


def is_image_name(path: Path) -> bool:
    """Whether a relative path has an image's suffix and no hidden part."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in path.parts)


# ---- decoding

_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_filters: Any = None


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Keep Pillow's warnings off the screen. `warnings.catch_warnings` is not safe in threads, so the first thread
    in sets the filter and the last one out puts the old ones back."""
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
                f"{os.fspath(name)} is too large: its header announces more than {MAX_PIXELS:,} pixels. "
                "Scale it down or cut it into parts."
            ) from None
        except Exception:  # a damaged header makes Pillow's plugins raise anything
            raise ImageError(
                f"{os.fspath(name)} is not an image that can be read (it begins with {data[:8]!r}). "
                f"Known formats: {', '.join(s[1:] for s in IMAGE_SUFFIXES)}."
            ) from None
        with image:
            yield image


def _header(image: Image.Image, data: bytes, name: _PathLike) -> ImageHeader:
    """The header of an opened image, its size and depth checked."""
    width, height = image.size
    if image.format != "TIFF" and _orientation(image) >= 5:
        width, height = height, width
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{os.fspath(name)} is too large: {height:,} x {width:,} pixels, the limit is {MAX_PIXELS:,} in all. "
            "Scale it down or cut it into parts."
        )
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            f"{os.fspath(name)} is too small: {height} x {width} pixels, each side must have at least {MIN_SIDE}."
        )
    bits = _bits(image, data)
    if bits > 16:
        raise ImageError(
            f"{os.fspath(name)} has {bits} bits a channel (mode {image.mode}), whose range is not known. "
            "Convert it to 8 or 16 bit."
        )
    return ImageHeader(height, width, image.mode, "JPEG" if image.format == "MPO" else str(image.format), bits)


def _bits(image: Image.Image, data: bytes) -> int:
    """Bits a channel in the file: 8 (or fewer), 16 or 32. Pillow's mode hides the 16 bits of a colour image."""
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
    except Exception:  # damaged EXIF does not make the picture unusable
        return 1


def _pixels(image: Image.Image, background: int) -> np.ndarray:
    """uint8 (h, w, 3) of a loaded 8-bit image."""
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        paper = Image.new("RGBA", image.size, (background,) * 3 + (255,))
        return np.asarray(Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB"))
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
        raise ValueError("16-bit pixels with a rotation cannot be decoded")
    return deep[..., [2, 1, 0, 3][: deep.shape[2]]].astype(np.float32) / 257


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    transpose, up_down, left_right = _TURNS.get(orientation, (0, 0, 0))
    if transpose:
        pixels = pixels.transpose(1, 0, 2)
    return pixels[:: -1 if up_down else 1, :: -1 if left_right else 1]


def _brief(error: BaseException) -> str:
    return str(error).split("\n")[0].rstrip(".") or type(error).__name__


# ---- geometry
