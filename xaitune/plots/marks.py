"""Colours, markers, legends and error bars that the charts share. Colours are those of Okabe and Ito."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from xaitune.plots.figures import figure_of

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#222222", "#767676"
PALETTE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
MARKERS: tuple[Any, ...] = ("o", "s", "^", "D", "v", "P", "X")
LINES: tuple[Any, ...] = ("-", "--", ":", "-.")


def axes_below(ax: Axes) -> Axes:
    """A second Axes in the lower half of `ax`, which shrinks to the upper half; both share the x axis."""
    figure, spec = figure_of(ax), ax.get_subplotspec()
    if spec is not None:
        grid = spec.subgridspec(2, 1, hspace=0.12)
        ax.set_subplotspec(grid[0])
        return figure.add_subplot(grid[1], sharex=ax)
    box = ax.get_position()
    ax.set_position((box.x0, box.y0 + 0.55 * box.height, box.width, 0.45 * box.height))
    return figure.add_axes((box.x0, box.y0, box.width, 0.45 * box.height), sharex=ax)


def legend(ax: Axes, handles: list[Line2D], own: bool, title: str | None = None) -> None:
    """Draw the legend right of the plot in a figure of our own, or inside the plot in a caller's, which may lack room."""
    position: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1)} if own else {"loc": "best"}
    ax.legend(handles=handles, fontsize=8, frameon=not own, framealpha=0.6, title=title, title_fontsize=8, **position)


def colours(count: int) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(count)]


def interval_bars(value: Any, low: Any, high: Any) -> np.ndarray:
    """(2, n) lengths of the error bars below and above the values; 0 where a bound is missing."""
    value, low, high = (np.asarray(v, float) for v in (value, low, high))
    return np.nan_to_num(np.maximum(np.stack([value - low, high - value]), 0))
