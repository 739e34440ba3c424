"""From what a user writes to checked values; every error says what was received and what to do."""

import math
from collections.abc import Mapping
from typing import Any

from xaitune.errors import ConfigError


def parse_image_size(value: Any) -> tuple[int, int]:
    """(height, width) from '96x128', 96, or a pair; VGG16 needs at least 32 pixels on each side.

    Raises ConfigError for anything else.

    Examples:
        >>> parse_image_size("96x128")
        (96, 128)
    """
    parts: Any = value.lower().split("x") if isinstance(value, str) else value
    try:
        sides = [int(p) for p in (parts if isinstance(parts, list | tuple) else [parts])]
    except (TypeError, ValueError):
        sides = []
    if len(sides) == 1:
        sides *= 2
    if len(sides) != 2 or min(sides) < 32 or max(sides) > 4096:
        raise ConfigError(
            f"image_size must be HEIGHTxWIDTH in pixels, each 32..4096 (such as 224x224). Received: {value!r}."
        )
    return sides[0], sides[1]


def parse_split(value: Any) -> tuple[float, ...]:
    """Shares of train, validation and test, above 0 and summing to 1, from '0.6,0.2,0.2' or a sequence.

    Raises ConfigError.
    """
    try:
        shares = tuple(float(part) for part in _items(value))
    except (TypeError, ValueError):
        shares = ()
    if not (len(shares) == 3 and min(shares) > 0 and abs(sum(shares) - 1) < 1e-6):  # NaN fails too
        raise ConfigError(
            "split must be three shares above 0 (train, validation, test) that sum to 1, such as (0.6, 0.2, 0.2). "
            f"Received: split={value!r}."
        )
    return shares


def parse_blocks(value: Any, name: str = "block", low: int = 1, high: int | None = 5) -> tuple[int, ...]:
    """Block numbers, ascending and unique, from 3, '3', '1-3', '1,3', [1, 3] or 'all'.

    `high` is the model's last block, 5 for VGG16. With None, where the model is not known yet, 'all' stands for VGG16's
    and any higher number passes. Raises ConfigError for a block outside `low`..`high`.

    Examples:
        >>> parse_blocks("1-3,5")
        (1, 2, 3, 5)
    """
    count = high or 5
    wanted: list[int] = []
    try:
        for item in _items(value):
            text = str(item).strip().lower()
            if text == "all":
                wanted += range(max(low, 1), count + 1)
            elif "-" in text[1:]:
                first, last = (int(part) for part in text.split("-"))
                wanted += range(first, last + 1)
            else:
                wanted.append(int(text))
    except ValueError:
        wanted = []
    if not wanted or min(wanted) < low or (high and max(wanted) > high):
        raise ConfigError(
            f"{name} must be {low}..{count}, a range like 1-3, a list like 1,3, or 'all' (the model has Block 1 to {count}). "
            f"Received: {value!r}."
        )
    return tuple(sorted(set(wanted)))


def parse_fill(value: Any) -> Any:
    """What replaces a hidden superpixel: 'mean', 'blur', or a colour 0..255 from 0, '0' or '0,0,0'.

    Raises ConfigError.
    """
    if value in ("mean", "blur"):
        return value
    try:
        colour = tuple(float(part) for part in _items(value))
    except ValueError:
        colour = ()
    if len(colour) not in (1, 3) or not all(0 <= part <= 255 for part in colour):
        raise ConfigError(f"fill must be mean, blur, or a colour such as 0,0,0 (0..255). Received: {value!r}.")
    return colour if len(colour) == 3 else colour[0]


def parse_fold(value: Any) -> str | None:
    """'K/N', fold K of N, from '2/5'; None stays. N is at least 3, since a fold is for testing and another for validation.

    Raises ConfigError.
    """
    if value is None:
        return None
    number, _, folds = str(value).partition("/")
    if not (number.isdigit() and folds.isdigit() and int(folds) >= 3 and 1 <= int(number) <= int(folds)):
        raise ConfigError(f"fold must be K/N with N at least 3 and K in 1..N, such as 2/5. Received: fold={value!r}.")
    return f"{int(number)}/{int(folds)}"


def parse_rates(value: Any) -> tuple[float, ...] | str | None:
    """Learning rates, unique and in the order given, from 0.01, '1e-2,1e-3' or [0.01, 0.001]; None and 'own' stay.

    Raises ConfigError.
    """
    if value is None or value == "own":
        return value
    try:
        rates = tuple(dict.fromkeys(float(item) for item in _items(value)))
    except (TypeError, ValueError):
        rates = ()
    if not rates or not all(0 < rate <= 10 for rate in rates):
        raise ConfigError(
            "learning_rates must be rates above 0, at most 10, such as 1e-2,1e-3, or own. "
            f"Received: learning_rates={value!r}."
        )
    return rates


def parse_rate(value: Any) -> float | str | None:
    """A learning rate above 0 and at most 10, or 'keras'; None and 'own' are None. Raises ConfigError.

    Examples:
        >>> parse_rate("1e-3"), parse_rate("keras"), parse_rate("own")
        (0.001, 'keras', None)
    """
    if value in (None, "own", "keras"):
        return "keras" if value == "keras" else None
    try:
        rate = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        rate = math.nan
    if not 0 < rate <= 10:
        raise ConfigError(
            "learning_rate must be above 0, at most 10, or own (the optimizer's own), or keras (Keras's default). "
            f"Received: learning_rate={value!r}."
        )
    return rate


def parse_block_rates(value: Any) -> dict[int | str, float]:
    """Block (or 'head') -> multiplier of the learning rate, from '1-3=0.1,head=10' or {4: 0.1, 'head': 10}.

    Ascending, the head last; {} for None. Raises ConfigError.

    Examples:
        >>> parse_block_rates("1-2=0.1,head=10")
        {1: 0.1, 2: 0.1, 'head': 10.0}
    """
    if value is None:
        return {}
    pairs = value.items() if isinstance(value, Mapping) else [str(part).partition("=")[::2] for part in _items(value)]
    rates: dict[int | str, float] = {}
    try:
        for blocks, factor in pairs:
            at_head = str(blocks).strip() == "head"
            rates |= dict.fromkeys(("head",) if at_head else parse_blocks(blocks), float(factor))
    except (TypeError, ValueError, ConfigError):
        rates = {}
    if not rates or not all(0 < factor <= 100 for factor in rates.values()):
        raise ConfigError(
            "block_rates must be multipliers above 0, at most 100, of blocks 1..5 or the head, such as 1-3=0.1,head=10. "
            f"Received: block_rates={value!r}."
        )
    return dict(sorted(rates.items(), key=lambda pair: str(pair[0])))


def parse_class_weight(value: Any) -> str | None:
    """'balanced', 'share', or weights above 0 of named classes as 'crack=2,free=0.5'; None and 'none' give None.

    Raises ConfigError.

    Examples:
        >>> parse_class_weight({"crack": 2, "free": 0.5})
        'crack=2,free=0.5'
    """
    if value in (None, "none", "balanced", "share"):
        return None if value == "none" else value
    pairs = value.items() if isinstance(value, Mapping) else [str(part).rpartition("=")[::2] for part in _items(value)]
    weights: dict[str, float] = {}
    try:
        weights = {str(name).strip(): float(weight) for name, weight in pairs}
    except (TypeError, ValueError):
        weights = {}
    if not weights or "" in weights or not all(0 < weight <= 1e6 for weight in weights.values()):
        raise ConfigError(
            "class_weight must be None, 'balanced', 'share', or weights above 0 of classes such as crack=2,free=0.5. "
            f"Received: class_weight={value!r}."
        )
    return ",".join(f"{name}={weight:g}" for name, weight in weights.items())


def _items(value: Any) -> list[Any]:
    """The items of a list, or of text separated by commas."""
    return list(value) if isinstance(value, list | tuple) else str(value).split(",")


def parse_pixel_classes(value: Any) -> str | None:
    """What the values of a mask mean, in its one form, from a name, or from pairs such as '0=background,1=crack'.

    A pair's value is a whole number 0..65535 or a colour such as #ff0000. None stays None. Raises ConfigError.

    Examples:
        >>> parse_pixel_classes(" 0 = background, 2=crack,255=ignore ")
        '0=background,2=crack,255=ignore'
    """
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(
            "pixel_classes must be a name, or VALUE=NAME,... such as 0=background,1=crack or #000000=background,#ff0000=crack. "
            f"Received: {value!r}."
        )
    if "=" not in value:
        if "," in value or value.strip() in ("background", "ignore"):
            raise ConfigError(
                f"pixel_classes needs the value of each class, such as 0=background. Received: {value!r}."
            )
        return value.strip()
    return ",".join(f"{code}={name}" for code, name in pixel_codes(value).items())


def pixel_codes(text: str) -> dict[str, str]:
    """Value or colour -> name, from VALUE=NAME,...; one of them is 'background', and 'ignore' pixels count for nothing.

    Raises ConfigError.

    Examples:
        >>> pixel_codes("#000000=background,#FF0000=crack")
        {'#000000': 'background', '#ff0000': 'crack'}
    """
    codes: dict[str, str] = {}
    for part in text.split(","):
        code, _, name = (piece.strip() for piece in part.partition("="))
        code = code.lower()
        colour = len(code) == 7 and code[0] == "#" and all(c in "0123456789abcdef" for c in code[1:])
        number = code.isascii() and code.isdigit() and int(code) <= 65535
        if not name or not (colour or number):
            raise ConfigError(
                "pixel_classes must be VALUE=NAME,... with a whole number 0..65535 or a colour such as #ff0000 as the value. "
                f"Received: {part.strip()!r}."
            )
        code = code if colour else str(int(code))
        if code in codes:
            raise ConfigError(f"pixel_classes names {code} twice. Received: {text!r}.")
        codes[code] = name
    if len({code.startswith("#") for code in codes}) > 1:
        raise ConfigError(f"pixel_classes must hold numbers or colours, not both. Received: {text!r}.")
    if "background" not in codes.values() or not set(codes.values()) - {"background", "ignore"}:
        raise ConfigError(
            f"pixel_classes must name the background (0=background) and at least one other class. Received: {text!r}."
        )
    return codes
