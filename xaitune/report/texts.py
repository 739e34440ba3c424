"""How figures, counts and pictures are written into the page."""

import base64
import dataclasses
import math
import re
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from xaitune._names import duration
from xaitune.plots import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASH = "–"
SHADES = 10  # steps of a shaded table cell, the classes s0 .. s10 of the style sheet


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture inside the page: its data URI, its width in CSS pixels, what it shows, and the line below it."""

    source: str
    width: int
    alt: str
    caption: str


def score_text(value: Any, digits: int = 3) -> str:
    """'0.764', or a dash where there is no score."""
    return f"{float(value):.{digits}f}" if value is not None and math.isfinite(float(value)) else DASH


def interval_text(low: Any, high: Any, sign: str = "") -> str:
    """'[0.649, 0.771]', or '[no interval]'; `sign` '+' writes the signs of differences."""
    if any(v is None or not math.isfinite(float(v)) for v in (low, high)):
        return "[no interval]"
    return f"[{float(low):{sign}.3f}, {float(high):{sign}.3f}]"


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


def picture(ax: "Axes", alt: str, caption: str = "", dpi: int = 150) -> Picture:
    """A chart as a picture inside the page; `alt` says what it shows to those who cannot see it."""
    content = figures.png_bytes(ax, dpi)
    width = struct.unpack(">I", content[16:20])[0]  # a PNG's header
    return Picture(
        "data:image/png;base64," + base64.b64encode(content).decode(), round(width * 100 / dpi), alt, caption
    )
