"""What the values in a mask mean: the numbers of classes, or only that a pixel is marked."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from xaitune.config.choices import IGNORED
from xaitune.config.parse import pixel_codes
from xaitune.data.images import decode_image, read_bytes, read_mask, read_values
from xaitune.errors import DataError

BACKGROUND = 0
_COLOUR = 1 << 32  # added to the number of a colour, to tell it from a grey value


@dataclass(frozen=True)
class MaskValues:
    """How masks are read: `names` of the classes, background first, and `codes`, value or colour -> class number.

    Without codes, pixels above half of the range are marked: as `names[1]`, or, without any name, as their image's class.
    """

    names: tuple[str, ...]
    codes: dict[int, int] | None = None

    def numbers(self, path: Path, own: int = 1) -> np.ndarray:
        """(h, w) uint8 class numbers of a mask; `own`: that of its image's class. Raises ImageError, and DataError."""
        if self.codes is None:
            return np.where(read_mask(path), 1 if self.names else own, BACKGROUND).astype(np.uint8)
        if max(self.codes) >= _COLOUR:
            pixels = decode_image(read_bytes(path), path, background=0).astype(np.int64)
            values = _COLOUR + (pixels[..., 0] << 16) + (pixels[..., 1] << 8) + pixels[..., 2]
        else:
            values = read_values(path)
            table = np.full(1 << 16, -1)
            table[list(self.codes)] = list(self.codes.values())
            found = table[values]
            if (found >= 0).all():
                return found.astype(np.uint8)
        known, place = np.unique(values, return_inverse=True)
        if unknown := [int(value) for value in known if int(value) not in self.codes]:
            shown = [f"#{value - _COLOUR:06x}" if value >= _COLOUR else str(value) for value in unknown]
            more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
            raise DataError(f"{path} holds {', '.join(shown[:5])}{more}, which --pixel-classes does not name")
        return np.array([self.codes[int(value)] for value in known], np.uint8)[place.reshape(values.shape)]


@lru_cache(maxsize=8)
def values_of_masks(pixel_classes: str | None) -> MaskValues:
    """How masks are read with this setting `pixel_classes`. Raises DataError for too many classes.

    Examples:
        >>> values_of_masks("0=background,2=crack,255=ignore")
        MaskValues(names=('background', 'crack'), codes={0: 0, 2: 1, 255: 255})
    """
    if pixel_classes is None:
        return MaskValues(())
    if "=" not in pixel_classes:
        return MaskValues(("background", pixel_classes))
    codes = pixel_codes(pixel_classes)
    others = [name for name in codes.values() if name not in ("background", "ignore")]
    names = ("background", *dict.fromkeys(others))
    require_countable(names)
    colours = any(code.startswith("#") for code in codes)
    number = {name: n for n, name in enumerate(names)} | {"ignore": IGNORED}
    base = _COLOUR if colours else 0
    return MaskValues(
        names, {base + int(code.lstrip("#"), 16 if colours else 10): number[name] for code, name in codes.items()}
    )


def require_countable(names: tuple[str, ...]) -> None:
    """Raise DataError for more classes than a byte holds, and for a class of images that is called background."""
    if len(names) > IGNORED:
        raise DataError(f"At most {IGNORED - 1} pixel classes are possible. Received: {len(names) - 1}.")
    if names[1:].count("background"):
        raise DataError(
            "A class folder is called background, which is the class of pixels that are not marked. Rename it."
        )


def read_marked(path: Path, pixel_classes: str | None, class_name: str | None = None) -> np.ndarray:
    """(h, w) bool: the pixels of a mask that are marked, or, where `pixel_classes` names it, those of `class_name`.

    Ignored pixels are not marked. Raises ImageError, and DataError for a value that is not named.
    """
    values = values_of_masks(pixel_classes)
    if values.codes is None:
        return read_mask(path)
    numbers = values.numbers(path)
    if class_name in values.names[1:]:
        return numbers == values.names.index(str(class_name))
    return (numbers != BACKGROUND) & (numbers != IGNORED)
