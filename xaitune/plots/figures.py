"""Figures, fonts and image files for all plots.

Figures are created outside pyplot, so long loops do not leak memory, and a notebook shows a returned Axes as a picture.
"""

import functools
import importlib.util
import io
import textwrap
import unicodedata
from pathlib import Path

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from xaitune._files import write_bytes
from xaitune.errors import InputError

DPI, SCREEN_DPI = 150, 96  # of a file, and of what a screen calls an inch
# Fonts with Hangul and other East Asian characters that common systems have, best first.
EAST_ASIAN_FONTS = (
    *("NanumGothic", "Nanum Gothic", "Noto Sans CJK KR", "Noto Sans KR", "Malgun Gothic", "Apple SD Gothic Neo"),
    *("AppleGothic", "UnDotum", "Noto Sans CJK JP", "Noto Sans CJK SC", "Microsoft YaHei", "Yu Gothic"),
    *("Hiragino Sans", "PingFang SC", "WenQuanYi Zen Hei", "Droid Sans Fallback"),
)


class ShownAxes(Axes):
    """Axes that a notebook shows as its figure's picture, in the figure's size, sharp on dense screens too."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        picture = png_bytes(self)
        with Image.open(io.BytesIO(picture)) as opened:
            return picture, {"width": round(opened.width * SCREEN_DPI / DPI)}


def own_axes(width: float, height: float) -> Axes:
    """Axes in a new figure of `width` x `height` inches, outside pyplot."""
    return Figure(figsize=(width, height), layout="constrained").add_subplot(axes_class=ShownAxes)


@functools.cache
def east_asian_families() -> tuple[str, ...]:
    """Names of the available fonts with East Asian characters: the bundled NanumGothic, then the installed ones.

    NanumGothic is a file of the package koreanize-matplotlib, which is not imported, since its import changes rcParams.
    """
    package = importlib.util.find_spec("koreanize_matplotlib")
    for folder in (package.submodule_search_locations or []) if package else []:
        file = Path(folder) / "fonts" / "NanumGothic.ttf"
        if file.is_file():
            font_manager.fontManager.addfont(str(file))
    known = {font.name for font in font_manager.fontManager.ttflist}
    return tuple(name for name in EAST_ASIAN_FONTS if name in known)


def is_wide(character: str) -> bool:
    """Whether a character is East Asian and drawn at double width."""
    return ord(character) >= 0x1100 and unicodedata.east_asian_width(character) in "WF"


def finish(*axes: Axes) -> Axes:
    """Make every text appear literally; returns the first Axes.

    Text with East Asian characters gets a fallback font that has them; a '$' in a name does not start a formula.
    """
    for ax in axes:
        for text in ax.findobj(Text):
            text.set_parse_math(False)
            if any(is_wide(c) for c in text.get_text()):
                own = [f for f in text.get_fontfamily() if f not in east_asian_families()]
                text.set_fontfamily([*own, *east_asian_families()])
    return axes[0]


def tidy(ax: Axes, title: str = "", grid: str = "y") -> None:
    """Give an Axes the common look: no top and right spines, a light grid, the title on the left."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    ax.grid(axis=grid, color="#e3e3e3", linewidth=0.8)  # type: ignore[arg-type]
    if title:
        ax.set_title(title, loc="left", fontsize=11)


def wrap(text: str, inches: float, points: float) -> str:
    """The text broken into lines that fit the width; East Asian characters count as wider."""
    wide_share = sum(map(is_wide, text)) / max(len(text), 1)
    columns = max(6, int(inches * 72 / (points * 0.56) / (1 + 0.8 * wide_share)))
    return "\n".join(textwrap.fill(line, columns) for line in text.split("\n"))


def png_bytes(drawn: Axes | Figure, dpi: int = DPI) -> bytes:
    """The picture as the bytes of a PNG, cropped to what is drawn."""
    buffer = io.BytesIO()
    figure_of(drawn).savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", facecolor="white")
    return buffer.getvalue()


def figure_of(drawn: Axes | Figure) -> Figure:
    """The figure of an Axes, or the figure itself. Raises InputError for anything else."""
    figure = drawn if isinstance(drawn, Figure) else drawn.get_figure(root=True)
    if not isinstance(figure, Figure):
        raise InputError(f"An Axes or a Figure is needed. Received: {type(drawn).__name__}.")
    return figure


def save(drawn: Axes | Figure, path: str | Path, dpi: int = DPI) -> Path:
    """Write a picture as PNG, atomically: a reader of `path` never sees a partial picture.

    Makes the folder. Raises RunError if it cannot be written.
    """
    return write_bytes(path, png_bytes(drawn, dpi))
