"""Rules that check a setting: one class for each kind of value."""

import numbers
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xaitune.config.parse import parse_blocks
from xaitune.errors import ConfigError, nearest


class Rule:
    """Checks the value of a setting.

    `kind`: what the command line reads (int, float, str or bool). `choices`: the names to choose from, where there are.
    `metavar`: what --help shows for a value otherwise.
    """

    kind: type = str
    choices: tuple[str, ...] = ()
    metavar: str = "TEXT"

    def __call__(self, name: str, value: Any) -> Any:
        """The checked value of the setting `name`, in its one form. Raises ConfigError."""
        return value

    def from_text(self, name: str, value: Any) -> Any:
        """The value as a configuration takes it, from what the command line has read. Raises ConfigError."""
        return value


def require(ok: bool, name: str, want: str, value: Any) -> None:
    """Raise ConfigError, saying what `name` must be and what was received, unless `ok`."""
    if not ok:
        raise ConfigError(f"{name} must be {want}. Received: {name}={value!r}.")


def require_choice(name: str, value: Any, known: Iterable[str]) -> None:
    """Raise ConfigError, with the nearest known name, for a value that is not one of `known`."""
    known = tuple(known)
    if not isinstance(value, str) or value not in known:
        listed = f"{name} must be one of {', '.join(known)}. Received: {name}={value!r}."
        raise ConfigError(listed + nearest(str(value), known))


@dataclass(frozen=True)
class Whole(Rule):
    """A whole number of at least `low` and, where given, at most `high`; None too where it is `optional`."""

    low: int
    optional: bool = False
    high: int | None = None
    kind = int
    metavar = "N"

    def __call__(self, name: str, value: Any) -> int | None:
        if value is None and self.optional:
            return None
        ok = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        ok = ok and int(value) >= self.low and (self.high is None or int(value) <= self.high)
        most = "" if self.high is None else f" and at most {self.high}"
        require(bool(ok), name, f"a whole number of at least {self.low}{most}", value)
        return int(value)


@dataclass(frozen=True)
class Number(Rule):
    """A number for which `accepts` holds, described by `want`; None too where it is `optional`."""

    want: str
    accepts: Callable[[float], bool]
    optional: bool = False
    kind = float
    metavar = "X"

    def __call__(self, name: str, value: Any) -> float | None:
        if value is None and self.optional:
            return None
        ok = isinstance(value, int | float) and not isinstance(value, bool) and self.accepts(value)
        require(ok, name, self.want, value)
        return value


@dataclass(frozen=True)
class Choice(Rule):
    """One of the `names`."""

    names: tuple[str, ...]

    @property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names."""
        return self.names

    def __call__(self, name: str, value: Any) -> str:
        require_choice(name, value, self.names)
        return value


@dataclass(frozen=True)
class Text(Rule):
    """Text, or a path as text; None too where it is `optional`."""

    want: str = "text"
    optional: bool = False
    empty: bool = True
    metavar: str = "PATH"

    def __call__(self, name: str, value: Any) -> str | None:
        value = str(value) if isinstance(value, Path) else value
        ok = (value is None and self.optional) or (isinstance(value, str) and (bool(value) or self.empty))
        require(ok, name, self.want, value)
        return value


@dataclass(frozen=True)
class Flag(Rule):
    """True or False."""

    kind = bool

    def __call__(self, name: str, value: Any) -> bool:
        is_bool = isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")  # NumPy's, before 2 and since
        require(is_bool, name, "True or False", value)
        return bool(value)


@dataclass(frozen=True)
class Parsed(Rule):
    """Whatever `parse` returns; it raises ConfigError itself."""

    parse: Callable[[Any], Any]
    metavar: str = "TEXT"

    def __call__(self, name: str, value: Any) -> Any:
        return self.parse(value)


@dataclass(frozen=True)
class Depth(Rule):
    """How many blocks are frozen: `low` (0: none) to `high` (5: all of VGG16)."""

    low: int
    high: int
    metavar = "0-5"

    def __call__(self, name: str, value: Any) -> int:
        ok = isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high
        require(ok, name, f"{self.low}..{self.high} (0 freezes nothing, 5 all of VGG16)", value)
        return value

    def from_text(self, name: str, value: str) -> int:
        blocks = parse_blocks(value, name, low=0)
        if len(blocks) > 1:
            raise ConfigError(f"{name} must be one of 0..5 here. Received: {value}.")
        return blocks[0]


@dataclass(frozen=True)
class Depths(Rule):
    """Several freeze depths 0..5, as a tuple."""

    metavar = "0-5"

    def __call__(self, name: str, value: Any) -> tuple[int, ...]:
        return parse_blocks(value, name, low=0)


@dataclass(frozen=True)
class Names(Rule):
    """A list of names, or text separated by commas -> the names once each, in order, separated by commas; None for none.

    `known`: the names allowed, or () for any; `want` describes them in an error.
    """

    want: str
    known: tuple[str, ...] = ()
    metavar = "NAMES"

    def __call__(self, name: str, value: Any) -> str | None:
        require(value is None or isinstance(value, str | list | tuple), name, self.want, value)
        given = [] if value is None else value.split(",") if isinstance(value, str) else value
        names = list(dict.fromkeys(filter(None, (str(part).strip() for part in given))))
        for part in names if self.known else ():
            require_choice(name, part, self.known)
        return ",".join(names) or None


@dataclass(frozen=True)
class SeveralOf(Rule):
    """At least one of the `names`, as a tuple, from a list or from text separated by commas."""

    names: tuple[str, ...]
    want: str
    metavar = "NAMES"

    def __call__(self, name: str, value: Any) -> tuple[str, ...]:
        given = value.split(",") if isinstance(value, str) else value
        require(isinstance(given, list | tuple) and bool(given), name, self.want, given)
        chosen = [n.strip() if isinstance(n, str) else n for n in given]
        for one in chosen:
            require_choice(name, one, self.names)
        return tuple(dict.fromkeys(chosen))
