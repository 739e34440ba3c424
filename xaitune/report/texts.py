"""How figures, counts and pictures are written into the page."""

import base64
import dataclasses
import io
import math
import re
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.text import Text

from xaitune._names import duration
from xaitune.plots import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASH = "–"
DARK, MIDDLE = 0.4, "#757b81"  # colours darker than that, and the grey that takes their place
SHADES = 10  # steps of a shaded table cell, the classes s0 .. s10 of the style sheet


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture inside the page: its data URI, its width in CSS pixels, what it shows, and the line below it.

    `photo`: it has photographs in it, whose colours the page must leave alone; those of a chart are inverted in dark mode.
    """

    source: str
    width: int
    alt: str
    caption: str
    photo: bool = False


def score_text(value: Any, digits: int = 3) -> str:
    """'0.764', or a dash where there is no score."""
    return f"{float(value):.{digits}f}" if value is not None and math.isfinite(float(value)) else DASH


def interval_text(low: Any, high: Any) -> str:
    """'[0.649, 0.771]', or '[no interval]'."""
    if any(v is None or not math.isfinite(float(v)) for v in (low, high)):
        return "[no interval]"
    return f"[{float(low):.3f}, {float(high):.3f}]"


def points_text(value: Any, low: Any, high: Any) -> str:
    """A difference of scores in points with its interval.

    Examples:
        >>> points_text(-0.0253, -0.096, 0.0454), points_text(0.01, float("nan"), None)
        ('-2.5 [-9.6, +4.5]', '+1.0 [no interval]')
    """
    figures = [100 * float(v) if v is not None else math.nan for v in (value, low, high)]
    if not math.isfinite(figures[0]):
        return DASH
    ends = f"[{figures[1]:+.1f}, {figures[2]:+.1f}]" if all(map(math.isfinite, figures)) else "[no interval]"
    return f"{figures[0]:+.1f} {ends}"


def percent_text(share: float) -> str:
    """A share in percent, with a decimal near 0 and 1, as the page's script writes it.

    Examples:
        >>> percent_text(0.714), percent_text(0.031), percent_text(0.9981), percent_text(0.9999)
        ('71 %', '3.1 %', '99.8 %', '100 %')
    """
    digits = 1 if share % 1 and (share > 0.995 or share < 0.1) else 0
    text = f"{100 * share:.{digits}f}"
    return f"{'100' if text == '100.0' else '0' if text == '0.0' else text} %"


def spaced_percent(text: str) -> str:
    """A text of another part of the program with its percentages written as the page writes them: '50 %', not '50%'."""
    return re.sub(r"(?<=\d)%", " %", text)


def cell_text(value: Any) -> str:
    """The text of a table's cell."""
    if isinstance(value, float | np.floating):
        return score_text(value)
    return str(value)


def has_hangul(text: Any) -> bool:
    """Whether a text has Korean letters, which the page then marks as Korean."""
    return re.search("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]", str(text)) is not None


def duration_text(seconds: Any) -> str:
    """'45 s', '12 min' or '3.5 h'; a dash where it is not known."""
    return DASH if seconds is None or not math.isfinite(float(seconds)) else duration(float(seconds))


def picture(ax: "Axes", alt: str, caption: str = "", dpi: int = 150, photo: bool = False) -> Picture:
    """A chart as a picture inside the page, with no background; `alt` says what it shows to those who cannot see it."""
    figure = figures.figure_of(ax)
    if photo:
        _grey_texts(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", transparent=True)
    content = buffer.getvalue()
    width = struct.unpack(">I", content[16:20])[0]  # a PNG's header
    source = "data:image/png;base64," + base64.b64encode(content).decode()
    return Picture(source, round(width * 100 / dpi), alt, caption, photo)


def _grey_texts(figure: Any) -> None:
    """Give dark texts a grey that can be read on white and on dark paper."""
    for text in figure.findobj(Text):
        if max(to_rgba(text.get_color())[:3]) < DARK:
            text.set_color(MIDDLE)
