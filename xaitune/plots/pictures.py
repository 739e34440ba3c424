"""Rows of pictures and contact sheets, drawn on one Axes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from xaitune.errors import InputError
from xaitune.plots.figures import figure_of, finish, own_axes, wrap
from xaitune.plots.overlays import PANEL_PIXELS, strip, to_height

PANEL_INCHES = 1.9


def _inches_per_pixel(ax: Axes, shape: tuple[int, ...]) -> float:
    figure, box = figure_of(ax), ax.get_position()
    return min(figure.get_figwidth() * box.width / shape[1], figure.get_figheight() * box.height / shape[0])


def panels(
    images: Sequence[Any], titles: Sequence[str], *, caption: str = "", ax: Axes | None = None, size: float = 10
) -> Axes:
    """Pictures side by side on one Axes, a title above each and a caption below all of them.

    `images`: (h, w[, 3]) 0..255, of any size; small ones are enlarged. Titles and caption are broken into lines.
    """
    if len(images) != len(titles):
        raise InputError(f"Every picture needs a title. Received: {len(images)} pictures, {len(titles)} titles.")
    gap, row = 8, strip(images)
    if ax is None:
        width = min(PANEL_INCHES * row.shape[1] / PANEL_PIXELS, 16) if len(images) > 1 else 4.0
        ax = own_axes(width, width * row.shape[0] / row.shape[1] + 0.6)
    scale = _inches_per_pixel(ax, row.shape)
    ax.imshow(row, interpolation="antialiased")
    ax.set_axis_off()
    left = 0
    for image, title in zip(images, titles, strict=True):
        picture_width = to_height(image, PANEL_PIXELS).shape[1]
        text, top = wrap(title, picture_width * scale, size), (left + picture_width / 2, 0)
        ax.annotate(text, top, (0, 4), textcoords="offset points", ha="center", va="bottom", fontsize=size)
        left += picture_width + gap
    if caption:
        text = wrap(caption, row.shape[1] * scale, size)
        ax.annotate(
            text,
            (0, row.shape[0]),
            (0, -6),
            textcoords="offset points",
            ha="left",
            va="top",
            fontsize=size,
            annotation_clip=False,
        )
    return finish(ax)


def contact_sheet(
    strips: Sequence[Any],
    labels: Sequence[str],
    *,
    titles: Sequence[str] = (),
    caption: str = "",
    ax: Axes | None = None,
    size: float = 9,
) -> Axes:
    """Strips of pictures below one another on one Axes, with a label left of each.

    `strips`: arrays (h, w, 3), such as `strip` returns, one per image. `titles` are placed above equally wide columns.
    """
    if not len(strips) or len(strips) != len(labels):
        raise InputError(f"Every strip needs a label. Received: {len(strips)} strips, {len(labels)} labels.")
    height, gap = 96, 6
    rows = [to_height(s, height) for s in strips]
    width = max(row.shape[1] for row in rows)
    sheet = np.full((len(rows) * (height + gap) - gap, width, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        sheet[i * (height + gap) : i * (height + gap) + height, : row.shape[1]] = row
    if ax is None:
        ax = own_axes(width / 100 + 2.1, sheet.shape[0] / 100 + 0.6)
    ax.imshow(sheet, interpolation="antialiased")
    ax.set_axis_off()
    for i, label in enumerate(labels):
        text, middle = wrap(label, 2.0, size), (0, i * (height + gap) + height / 2)
        ax.annotate(text, middle, (-5, 0), textcoords="offset points", ha="right", va="center", fontsize=size)
    for i, title in enumerate(titles):
        top = (width * (i + 0.5) / len(titles), 0)
        ax.annotate(title, top, (0, 4), textcoords="offset points", ha="center", va="bottom", fontsize=size)
    if caption:
        bottom, style = (0, sheet.shape[0]), dict[str, Any](va="top", fontsize=size, annotation_clip=False)
        ax.annotate(caption, bottom, (0, -6), textcoords="offset points", **style)
    return finish(ax)
