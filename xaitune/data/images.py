"""Reading and checking of image files: every file is read as RGB 0..255, (height, width, 3).

The rules by kind of file:

    8 bit                      uint8
    16 bit                     float32, value / 257, with fractions; with a `bit_depth` N value * 255 / (2 ** N - 1)
    9 to 15 bit                float32, the file's own largest value becomes 255
    signed numbers             read if none is negative, else refused
    0 is white                 inverted
    grey, black-and-white      copied to the three channels
    palette                    expanded
    transparency of any kind   composited on white (in a mask on black)
    CMYK, YCbCr, LAB           converted by Pillow
    EXIF orientation           applied
    several pages or frames    the first one
    DICOM                      as the file says that it is to be shown (see `dicom`)
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

import numpy as np
from PIL import Image

from xaitune.data.deep import Depth, Unsupported, deep_values, depth_of, scaled, signed_bytes
from xaitune.data.dicom import DICOM_SUFFIXES, dicom_header, dicom_pixels, is_dicom
from xaitune.data.walk import counted, endings, escaped, require_utf8, walk_files
from xaitune.errors import ImageError

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k"),
    *DICOM_SUFFIXES,
)
MAX_PIXELS = 100_000_000
MOST_VALUES = 32  # of a mask that holds numbers of classes
MIN_SIDE = 8
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION = 0x0112
_EIGHT_BITS = Depth(8)
# EXIF orientation -> (transpose first, then flip up-down, then flip left-right)
_FLIPS = {2: (0, 0, 1), 3: (0, 1, 1), 4: (0, 1, 0), 5: (1, 0, 0), 6: (1, 0, 1), 7: (1, 1, 1), 8: (1, 1, 0)}
_PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class ImageHeader:
    """A file's header: `height` and `width` in pixels after EXIF rotation, Pillow's `mode` and `format`, `bits` per channel.

    `depth`: what the file's numbers mean.
    """

    height: int
    width: int
    mode: str
    format: str
    bits: int = 8
    depth: Depth = _EIGHT_BITS


def read_image(path: _PathLike, bit_depth: int | None = None) -> np.ndarray:
    """Read an image as RGB 0..255, (height, width, 3): uint8, or float32 for a 16-bit file (value / 257).

    `bit_depth`: 9..16, the bits that are used of a file that only says 16, such as 12; 2 ** bit_depth - 1 becomes 255.
    Raises ImageError for a missing, unreadable, damaged, too large or too small file, and for a value above the bit depth.
    """
    return decode_image(read_bytes(path), path, bit_depth=bit_depth)


def image_header(path: _PathLike) -> ImageHeader:
    """Read size, mode and format from the header, without decoding pixels. Raises ImageError as `read_image` does."""
    return parse_header(read_bytes(path), path)


def read_mask(path: _PathLike) -> np.ndarray:
    """Read a mask at the file's own size, (height, width) bool: True where any channel exceeds half of its range.

    In a file with the values 0, 1, .. of a few classes, all but 0 are marked. One of more than 8 bits is read by half of its
    largest value, since it may use few of its bits. Raises ImageError as `read_image` does.
    """
    pixels = decode_image(read_bytes(path), path, background=0)
    top = pixels.max()
    if pixels.dtype == np.uint8:
        numbers = 0 < top < MOST_VALUES and np.array_equal(np.unique(pixels), np.arange(top + 1))
        return pixels.max(axis=2) > (0 if numbers else 127.5)
    return pixels.max(axis=2) > top / 2


def read_values(path: _PathLike) -> np.ndarray:
    """The numbers that a file with one channel holds, (height, width) int64: grey values, or indices into its palette.

    A colour file whose channels are equal counts as grey. Raises ImageError as `read_image` does, and for a colour file.
    """
    data = read_bytes(path)
    with _opened(data, path) as image:
        header = _header(image, data, path)
        with _damage_named(path):
            image.load()
            if image.mode == "P" or (header.bits <= 8 and image.mode == "L"):
                return np.asarray(image).astype(np.int64)
            if header.bits == 16 and image.mode.startswith("I"):
                return np.asarray(image).astype(np.int64)
    pixels = decode_image(data, path, background=0)
    if (pixels != pixels[..., :1]).any():
        raise ImageError(
            f"{os.fspath(path)} is in colour, but numbers are needed. Name the colours, such as #ff0000=crack."
        )
    return pixels[..., 0].astype(np.int64)


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
    if is_dicom(data, name):
        with _quiet_libraries():
            found = dicom_header(data, name)
        _check_size(found.height, found.width, name)
        return ImageHeader(found.height, found.width, found.photometric, "DICOM", 8 if found.bits <= 8 else 16)
    with _opened(data, name) as image:
        return _header(image, data, name)


def decode_image(data: bytes, name: _PathLike, *, background: int = 255, bit_depth: int | None = None) -> np.ndarray:
    """Decode an image file's bytes as `read_image` does; transparency is composited on the grey value `background`."""
    if is_dicom(data, name):
        parse_header(data, name)  # checks the size
        with _quiet_libraries():
            return dicom_pixels(data, name)
    with _opened(data, name) as image:
        header = _header(image, data, name)
        orientation = 1 if header.format == "TIFF" else _orientation(image)  # Pillow rotates TIFF files itself
        with _damage_named(name):
            image.load()
            if header.bits == 16:
                pixels = scaled(deep_values(image, data, header.depth), header.depth, bit_depth)
            else:
                pixels = _pixels(image, background, header.depth)
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:] / 255.0
        pixels = (pixels[..., :3] * alpha + background * (1 - alpha)).astype(np.float32)
    return np.ascontiguousarray(_oriented(pixels, orientation))


def check_pixels(data: bytes, name: _PathLike, bit_depth: int | None = None) -> tuple[int, int] | None:
    """Raise ImageError if the pixels cannot be decoded, or exceed the bit depth.

    JPEGs are decoded at an eighth of their size, which reads every byte at a fraction of the cost. Returns the smallest
    and the largest value of a file of 16 bits whose header does not say how many of them are used, else None.
    """
    if is_dicom(data, name):
        decode_image(data, name)
        return None
    with _opened(data, name) as image:
        header = _header(image, data, name)
        with _damage_named(name):
            image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
            if header.bits == 8:
                if header.depth.signed:
                    signed_bytes(image)
                return None
            values = deep_values(image, data, header.depth)
            scaled(values, header.depth, bit_depth)
    return None if header.depth.declared else (int(values.min()), int(values.max()))


def expand_images(images: _PathLike | Iterable[_PathLike]) -> list[Path]:
    """The image files given by a path, several paths or a folder (searched at any depth, links followed, sorted by name).

    In a folder, hidden files and files with a suffix not in IMAGE_SUFFIXES are ignored; a file that is named itself is
    always included. Raises ImageError if a path does not exist, no image is found or a name is not UTF-8.
    """
    given = [images] if isinstance(images, str | os.PathLike) else list(images)
    paths: list[Path] = []
    for item in map(Path, given):
        if item.is_dir():
            found = list(walk_files(item, ImageError))
            in_folder = sorted(p for p in found if is_image_name(p))
            if not in_folder:
                held = f"It holds {counted(endings(found))}. " if found else ""
                raise ImageError(f"No images in {escaped(item)}. {held}Known suffixes: {' '.join(IMAGE_SUFFIXES)}.")
            paths += in_folder
        elif item.exists():
            paths.append(item)
        else:
            raise ImageError(f"No image at {escaped(item)}. Check the path.")
    if not paths:
        raise ImageError("No images were given. Name one or more images, or a folder.")
    for path in paths:
        require_utf8(path, ImageError)
    return paths


def is_image_name(path: Path) -> bool:
    """Whether a file's name has an image suffix and is not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


# ---- decoding

_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_filters: Any = None


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Suppress the warnings of Pillow and pydicom.

    `warnings.catch_warnings` is not thread-safe, so the first thread to enter sets the filter and the last one to leave
    restores the old filters.
    """
    global _quiet_depth, _quiet_filters
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.filterwarnings("ignore", module=r"(PIL|pydicom)\.")
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                _quiet_filters.__exit__(None, None, None)


@contextmanager
def _damage_named(name: _PathLike) -> Iterator[None]:
    """Turn an error of a decoder into an ImageError that names the file."""
    try:
        yield
    except Unsupported as error:
        raise ImageError(f"{os.fspath(name)} {error}") from None
    except Exception as error:  # on damaged files the decoders raise any kind of exception
        raise ImageError(f"{os.fspath(name)} is damaged or cut short: {_brief(error)}. Copy it again.") from None


@contextmanager
def _opened(data: bytes, name: _PathLike) -> Iterator[Image.Image]:
    with _quiet_libraries():
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError:
            raise ImageError(
                f"{os.fspath(name)} is too large: its header declares more than {MAX_PIXELS:,} pixels. "
                "Scale it down or cut it into parts."
            ) from None
        except Exception:  # on damaged headers Pillow's plugins raise any kind of exception
            if data.startswith(_TIFF_STARTS):
                raise ImageError(
                    f"{os.fspath(name)} is a damaged TIFF, or one of a kind that is not read (float, signed or planar "
                    "colours, other channels than grey or RGB). Save it as grey or RGB of 8 or 16 bits."
                ) from None
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
    _check_size(height, width, name)
    with _damage_named(name):
        depth = depth_of(image, data)
    if depth.bits > 16:
        raise ImageError(
            f"{os.fspath(name)} has {depth.bits} bits per channel (mode {image.mode}), so its value range is unknown. "
            "Convert it to 8 or 16 bits."
        )
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    return ImageHeader(height, width, image.mode, kind, depth.bits, depth)


def _check_size(height: int, width: int, name: _PathLike) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{os.fspath(name)} is too large: {height:,} x {width:,} pixels, the limit is {MAX_PIXELS:,} in total. "
            "Scale it down or cut it into parts."
        )
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            f"{os.fspath(name)} is too small: {height} x {width} pixels, each side must have at least {MIN_SIDE}."
        )


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # an image with damaged EXIF data is still usable
        return 1


def _pixels(image: Image.Image, background: int, depth: Depth) -> np.ndarray:
    """uint8 (h, w, 3) of a loaded 8-bit image."""
    if depth.signed:
        return np.repeat(signed_bytes(image)[..., None], 3, axis=2)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        canvas = Image.new("RGBA", image.size, (background,) * 3 + (255,))
        return np.asarray(Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB"))
    if image.mode == "L":
        return np.repeat(np.asarray(image)[..., None], 3, axis=2)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    transpose, up_down, left_right = _FLIPS.get(orientation, (0, 0, 0))
    if transpose:
        pixels = pixels.transpose(1, 0, 2)
    return pixels[:: -1 if up_down else 1, :: -1 if left_right else 1]


def _brief(error: BaseException) -> str:
    return str(error).split("\n")[0].rstrip(".") or type(error).__name__
