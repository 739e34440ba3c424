"""What the page draws of an image: heatmaps, superpixels and classes of pixels over it, as pictures in data URIs."""

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from xaitune.data.images import read_image
from xaitune.data.resize import map_to_image
from xaitune.plots import overlays
from xaitune.plots.pictures import CLASS_COLOURS

if TYPE_CHECKING:  # these load Keras
    from xaitune.explain.heatmaps import BlockHeatmaps
    from xaitune.explain.lime.result import Superpixels

LONGEST, SHORTEST = 640, 320  # pixels of the longer side of a picture
THUMBNAIL = 96  # pixels of a thumbnail's height
SEVERAL = 3  # a thumbnail is at most this many times as wide as high
Panel = dict[
    str, Any
]  # title, note, picture (a data URI) and, of a heatmap, its block, its doubts and whether it was checked


def fit_picture(pixels: np.ndarray) -> np.ndarray:
    """uint8: an image scaled so that its longer side has from SHORTEST to LONGEST pixels."""
    height, width = pixels.shape[:2]
    longer = max(height, width)
    scale = np.clip(longer, SHORTEST, LONGEST) / longer
    return overlays.to_height(pixels, max(1, round(height * scale)))


def data_uri(picture: np.ndarray) -> str:
    """A picture (h, w, 3) as a PNG in a data URI."""
    return "data:image/png;base64," + base64.b64encode(_encoded(picture, ".png")).decode()


def thumbnail(path: Path, bit_depth: int | None) -> bytes:
    """A JPEG of THUMBNAIL pixels' height. Raises ImageError."""
    pixels = read_image(path, bit_depth)
    height = max(1, round(min(THUMBNAIL, SEVERAL * THUMBNAIL * pixels.shape[0] / pixels.shape[1])))
    return _encoded(overlays.to_height(pixels, height), ".jpg")


def heatmap_panels(maps: "BlockHeatmaps", picture: np.ndarray) -> list[Panel]:
    """The maps of one image over its `picture`, block by block, each with what speaks against relying on it (`doubts`)."""
    shown = []
    for column, block in enumerate(maps.blocks):
        raw, notes = maps.raw[block][0], []
        if maps.contributions is not None and block in maps.contributions.blocks:
            share = maps.contributions.share[0, maps.contributions.blocks.index(block)]
            notes.append(f"{share:+.0%} of the decision")
        if not maps.is_zero[0, column]:
            notes.append(f"peak {raw.max():.2g}")
        laid = map_to_image(maps.shown_view(block, 0), picture.shape, maps.images.shape[1:3], maps.resize)
        over = data_uri(overlays.overlay(picture, laid))
        about = {"title": maps.title(block), "note": ", ".join(notes), "picture": over, "block": block}
        shown.append(about | {"doubts": list(maps.doubts(0, block)), "checked": maps.checks is not None})
    return shown


def superpixel_panels(found: "Superpixels", picture: np.ndarray) -> list[Panel]:
    """The weights of one image's superpixels over its `picture`."""

    def laid(map_: np.ndarray) -> np.ndarray:
        return map_to_image(map_, picture.shape, found.images.shape[1:3], found.resize, nearest=True)

    positive = overlays.tint(picture, laid(found.top_mask(0, True)), overlays.POSITIVE)
    negative = overlays.tint(picture, laid(found.top_mask(0, False)), overlays.NEGATIVE)
    weights = overlays.signed_overlay(picture, laid(found.signed_map(0)))
    count = len(found.weights[0])
    return [
        _panel("Superpixels", f"{count} of them", overlays.boundaries(picture, laid(found.segments[0]))),
        _panel("Speak for the class", "the most positive, five at most", positive),
        _panel("Speak against it", "the most negative, five at most", negative),
        _panel("All weights", f"green for, orange against; R² {found.score[0]:.2f}", weights),
    ]


def pixel_panel(labels: np.ndarray, class_names: tuple[str, ...], picture: np.ndarray, resize: str) -> Panel:
    """The predicted class of every pixel, from class numbers (h, w) at the model's input size."""
    laid = map_to_image(labels, picture.shape, labels.shape, resize, nearest=True)
    numbers = [int(n) for n in np.unique(laid) if n]
    colours = {n: CLASS_COLOURS[(n - 1) % len(CLASS_COLOURS)] for n in numbers}
    for number, colour in colours.items():
        picture = overlays.tint(picture, laid == number, colour, 0.6)
    legend = [{"name": class_names[n], "colour": "#" + bytes(map(int, colour)).hex()} for n, colour in colours.items()]
    note = "" if legend else "background everywhere"
    return _panel("Predicted classes", note, picture) | {"legend": legend}


def _panel(title: str, note: str, picture: np.ndarray) -> Panel:
    return {"title": title, "note": note, "picture": data_uri(picture)}


def _encoded(picture: np.ndarray, suffix: str) -> bytes:
    return cv2.imencode(suffix, np.ascontiguousarray(picture[..., ::-1]))[1].tobytes()
