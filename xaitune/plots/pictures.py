"""Rows of pictures and contact sheets, drawn on one Axes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Patch

from xaitune.errors import InputError
from xaitune.plots.figures import figure_of, finish, own_axes, wrap
from xaitune.plots.overlays import PANEL_PIXELS, overlay, strip, tint, to_height

PANEL_INCHES = 1.9
BAR = (64, 9)  # width and height in points of the bar of colours
LINE = 1.3  # height of a line of text, in font sizes


def _inches_per_pixel(ax: Axes, shape: tuple[int, ...]) -> float:
    figure, box = figure_of(ax), ax.get_position()
    return min(figure.get_figwidth() * box.width / shape[1], figure.get_figheight() * box.height / shape[0])


def panels(
    images: Sequence[Any],
    titles: Sequence[str],
    *,
    caption: str = "",
    colours: str = "",
    ax: Axes | None = None,
    size: float = 10,
) -> Axes:
    """Pictures side by side on one Axes, a title above each and a caption below all of them.

    `images`: (h, w[, 3]) 0..255, of any size; small ones are enlarged. `colours`: what the colours of heatmaps mean, which gets a
    line of its own with a bar of these colours. All texts are broken into lines.
    """
    if len(images) != len(titles):
        raise InputError(f"Every picture needs a title. Received: {len(images)} pictures, {len(titles)} titles.")
    gap, row, bar = 8, strip(images), (BAR[0] + 6) / 72
    if ax is None:
        inches = min(PANEL_INCHES * row.shape[1] / PANEL_PIXELS, 16) if len(images) > 1 else 4.0
    else:
        inches = row.shape[1] * _inches_per_pixel(ax, row.shape)
    caption, colours = wrap(caption, inches, size), wrap(colours, inches - bar, size)
    if ax is None:
        lines = [text.count("\n") + 1 for text in (caption, colours) if text]
        ax = own_axes(inches, inches * row.shape[0] / row.shape[1] + 0.4 + sum(lines) * size * LINE / 72)
    scale = inches / row.shape[1]
    ax.imshow(row, interpolation="antialiased")
    ax.set_axis_off()
    left = 0
    for image, title in zip(images, titles, strict=True):
        picture_width = to_height(image, PANEL_PIXELS).shape[1]
        text, top = wrap(title, picture_width * scale, size), (left + picture_width / 2, 0)
        ax.annotate(text, top, (0, 4), textcoords="offset points", ha="center", va="bottom", fontsize=size)
        left += picture_width + gap
    drop = 6.0
    if colours:
        _draw_bar(ax, row.shape[0], drop)
        _write_below(ax, colours, row.shape[0], (bar * 72, -drop), size)
        drop += (colours.count("\n") + 1) * size * LINE
    if caption:
        _write_below(ax, caption, row.shape[0], (0, -drop), size)
    return finish(ax)


def _write_below(ax: Axes, text: str, bottom: int, offset: tuple[float, float], size: float) -> None:
    """A text below a picture that ends at `bottom`; `offset` in points."""
    style = dict[str, Any](ha="left", va="top", fontsize=size, annotation_clip=False)
    ax.annotate(text, (0, bottom), offset, textcoords="offset points", **style)


def _draw_bar(ax: Axes, bottom: int, drop: float) -> None:
    """The colours of heatmaps as a bar, `drop` points below a picture that ends at `bottom`."""
    width, height = BAR
    bar = overlay(np.full((height, width), 160.0), np.tile(np.linspace(0, 1, width), (height, 1)))
    place = dict[str, Any](xybox=(0, -drop - 2), boxcoords="offset points", box_alignment=(0, 1), annotation_clip=False)
    ax.add_artist(AnnotationBbox(OffsetImage(bar), (0, bottom), frameon=False, pad=0, **place))


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
        text = wrap(caption, sheet.shape[1] * _inches_per_pixel(ax, sheet.shape), size)
        _write_below(ax, text, sheet.shape[0], (0, -6), size)
    return finish(ax)


# RGB, told apart also by people who do not see red or green: Okabe and Ito's, and two of Tol's. Those of errors are no class's.
CLASS_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (136, 34, 85), (153, 153, 51))
MISSED, FALSE_ALARM, CONFUSED = (0, 114, 178), (213, 94, 0), (204, 121, 167)


def label_sheet(
    images: Sequence[Any],
    predicted: Sequence[np.ndarray],
    class_names: Sequence[str],
    *,
    truth: Sequence[np.ndarray] | None = None,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """One row per image: the image, the predicted classes of its pixels, and with `truth` the true classes and the errors.

    `predicted` and `truth`: (h, w) class numbers in the image's size, 0 for the background; pixels of `truth` beyond the
    classes (ignored ones) are grey. Pixels in error are missed, false alarms, or of another class.
    """
    strips = []
    for i, image in enumerate(images):
        row = [image, _coloured(image, predicted[i], len(class_names))]
        if truth is not None:
            row[1:1] = [_coloured(image, truth[i], len(class_names))]
            row.append(_errors(image, truth[i], predicted[i], len(class_names)))
        strips.append(strip([_letterbox(picture) for picture in row]))
    titles = ["image", "prediction"] if truth is None else ["image", "truth", "prediction", "error"]
    ax = contact_sheet(strips, list(names or [""] * len(strips)), titles=titles, ax=ax)
    handles = [Patch(color=_hex(_class_colour(c)), label=n) for c, n in enumerate(class_names) if c]
    if truth is not None:
        kinds = {"missed": MISSED, "false alarm": FALSE_ALARM}
        kinds |= {"another class": CONFUSED} if len(class_names) > 2 else {}
        handles += [Patch(color=_hex(colour), label=f"error: {kind}") for kind, colour in kinds.items()]
    columns = min(len(handles), 4)
    ax.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=columns, fontsize=8, frameon=False
    )
    return finish(ax)


def _hex(colour: Sequence[int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


def _class_colour(number: int) -> tuple[int, int, int]:
    return CLASS_COLOURS[(number - 1) % len(CLASS_COLOURS)]


def _coloured(image: Any, labels: np.ndarray, classes: int) -> np.ndarray:
    """The image with every class but the background tinted, and ignored pixels grey."""
    picture = np.asarray(image)
    for number in np.unique(labels):
        if number:
            colour = _class_colour(int(number)) if number < classes else (128, 128, 128)
            picture = tint(picture, labels == number, colour, 0.6)
    return picture


def _errors(image: Any, truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    wrong = (truth != predicted) & (truth < classes)
    picture = tint(image, wrong & (predicted == 0), MISSED, 0.75)
    picture = tint(picture, wrong & (truth == 0), FALSE_ALARM, 0.75)
    return tint(picture, wrong & (truth > 0) & (predicted > 0), CONFUSED, 0.75)


def _letterbox(picture: Any) -> np.ndarray:
    """A picture on a white square, so that the columns of images of different shapes stand below one another."""
    picture = np.asarray(picture)
    side = max(picture.shape[:2])
    square = np.full((side, side, 3), 255, np.float32)
    top, left = (side - picture.shape[0]) // 2, (side - picture.shape[1]) // 2
    square[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return square
