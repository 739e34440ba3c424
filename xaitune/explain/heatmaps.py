"""Heatmaps of images at one or more blocks: raw values, [0, 1] views, and their pictures."""

import dataclasses
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd

from xaitune._names import plural
from xaitune._notebook import table_html
from xaitune.data.images import read_image
from xaitune.data.resize import map_to_image, resize_image
from xaitune.errors import ImageError, ModelError
from xaitune.explain.map_checks import EMPTY, MapChecks
from xaitune.explain.maps_view import MapsView
from xaitune.plots import overlays
from xaitune.plots.pictures import panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What the colours of all pictures of heatmaps mean.
COLOURS = "No colour: no evidence for the class; light yellow: the most in this map. Each map has its own scale."
LEANING = 1 / 3  # the share of what speaks for a class from which on the decision leans on it


@dataclasses.dataclass(frozen=True, eq=False)
class Contributions:
    """What each block adds to the explained logit of n images, where the head is linear in the features of the blocks.

    `means` and `maxima`: (n, blocks) float64, relative to the average training image, from the means and the maxima of
    the block's channels. Their sum and the head's bias are the logit. `constant`: (n,), which together with the raw maps
    of all `blocks` adds up to the logit.
    """

    means: np.ndarray
    maxima: np.ndarray
    constant: np.ndarray
    blocks: tuple[int, ...]

    @property
    def total(self) -> np.ndarray:
        """(n, blocks): what a block adds by its means and its maxima."""
        return self.means + self.maxima

    @property
    def share(self) -> np.ndarray:
        """(n, blocks): `total`, divided by the sum of its absolute values; below 0 where a block speaks against the class."""
        return self.total / np.maximum(np.abs(self.total).sum(axis=1, keepdims=True), 1e-12)

    @property
    def leans_on_brightness(self) -> np.ndarray:
        """(n,): whether the means of Block 1 alone are at least a third of what speaks for the class.

        They see edges and brightness without their place, which may come from the lamp and not from the part.
        """
        if 1 not in self.blocks:
            return np.zeros(len(self.means), bool)
        positive = np.maximum(self.means, 0).sum(axis=1) + np.maximum(self.maxima, 0).sum(axis=1)
        return self.means[:, self.blocks.index(1)] >= LEANING * np.maximum(positive, 1e-12)


@dataclasses.dataclass(frozen=True, eq=False)
class BlockHeatmaps:
    """Heatmaps of n images at one or more blocks.

    `raw`: block -> (n, h_b, w_b) float32, unnormalised, at the block's own resolution; compare blocks by these.
    `images`: (n, h, w, 3) as the model saw them, 0..255. `classes`: the class index explained for each image;
    `probabilities`: (n, classes), a softmax, or a sigmoid of each label. `resize` and `bit_depth`: how files became the
    model's input. `precision`: that of the computation of the maps. `layers`: block -> its layer, where layers were asked for by
    name. `contributions`: what each block adds to the logit, of a class activation map of the head 'blocks'. `checks`: what
    speaks against relying on the maps, where `evaluate.reliability.check_maps` has looked (`with_checks`).
    """

    method: str
    raw: dict[int, np.ndarray]
    images: np.ndarray
    files: tuple[str, ...]
    classes: np.ndarray
    class_names: tuple[str, ...]
    probabilities: np.ndarray
    rule: str = "gradcam"
    resize: str = "stretch"
    precision: str = "float32"
    contributions: Contributions | None = None
    layers: dict[int, str] = dataclasses.field(default_factory=dict)
    bit_depth: int | None = None
    checks: MapChecks | None = None

    def __post_init__(self) -> None:
        for array in (*self.raw.values(), self.images, self.classes, self.probabilities):
            read_only(array)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks drawn, ascending."""
        return tuple(sorted(self.raw))

    @property
    def view(self) -> dict[int, np.ndarray]:
        """block -> maps in [0, 1]: negative values set to 0, each map divided by its own maximum."""
        return {block: unit_view(raw) for block, raw in self.raw.items()}

    @property
    def is_zero(self) -> np.ndarray:
        """(n, blocks): True where a map has no positive value and therefore shows nothing."""
        return np.stack([self.raw[b].reshape(len(self), -1).max(axis=1) <= 0 for b in self.blocks], axis=1)

    def block(self, number: int) -> "BlockHeatmaps":
        """The heatmaps of one block only. Raises ModelError for a block that was not drawn."""
        if number not in self.raw:
            raise ModelError(f"Block {number} was not drawn. Drawn: {', '.join(map(str, self.blocks))}.")
        return dataclasses.replace(self, raw={number: self.raw[number]})

    def with_checks(self, checks: MapChecks) -> "BlockHeatmaps":
        """The same heatmaps with their checks, which pictures, tables and views then show. Raises ModelError for other maps'."""
        if checks.files != self.files or not set(self.blocks) <= set(checks.blocks):
            raise ModelError(
                f"The checks are of other maps: {len(checks)} images at blocks {', '.join(map(str, checks.blocks))}, not "
                f"{len(self)} at {', '.join(map(str, self.blocks))}."
            )
        return dataclasses.replace(self, checks=checks)

    def doubts(self, image: int, block: int) -> tuple[str, ...]:
        """What speaks against relying on a map, of `map_checks.DOUBTS`; without checks only whether it is empty."""
        if self.checks is not None:
            return self.checks.of_map(image, block)
        return (EMPTY,) if self.is_zero[image, self.blocks.index(block)] else ()

    def upsampled(self, block: int, *, view: bool = True) -> np.ndarray:
        """(n, h, w): the [0, 1] views of a block, or its raw maps, resized bilinearly to the model's input size."""
        maps = (self.view if view else self.raw)[block]
        height, width = self.images.shape[1:3]
        return np.stack([cv2.resize(m, (width, height), interpolation=cv2.INTER_LINEAR) for m in maps])

    def explained(self, image: int) -> str:
        """The name of the class explained for an image."""
        return self.class_names[int(self.classes[image])]

    def answer(self, image: int) -> str:
        """The class explained and the predicted one, and the true one where it is known, as a picture's caption says them."""
        return answer_text(self.files[image], int(self.classes[image]), self.probabilities[image], self.class_names)

    def panels(
        self,
        image: int = 0,
        *,
        boxes: Mapping[int, np.ndarray] | None = None,
        true_boxes: np.ndarray | None = None,
    ) -> list[tuple[str, np.ndarray]]:
        """(title, picture) of one image and its overlays at all drawn blocks, in the file's own geometry.

        `boxes`: block -> (k, 4) x, y, width and height as shares of the image, as `Boxes.of_image` gives them, drawn in light
        blue; `true_boxes` (k, 4), likewise, in green on every picture.
        """
        picture = self.own_picture(image)
        true = np.zeros((0, 4)) if true_boxes is None else true_boxes
        shown = [("image", _boxed(picture, (true, overlays.TRUE)))]
        for block in self.blocks:
            heat = map_to_image(self.shown_view(block, image), picture.shape, self.images.shape[1:3], self.resize)
            found = np.zeros((0, 4)) if boxes is None else boxes[block]
            drawn = _boxed(overlays.overlay(picture, heat), (true, overlays.TRUE), (found, overlays.FOUND))
            drawn = overlays.caution(drawn) if self.doubts(image, block) else drawn
            shown.append((self._title(block, image), drawn))
        return shown

    def own_picture(self, image: int) -> np.ndarray:
        """An image (h, w, 3) in its file's own geometry, with at most 640 pixels per side."""
        return own_picture(self.files[image], self.images[image], self.bit_depth)

    def shown_view(self, block: int, image: int) -> np.ndarray:
        """(h_b, w_b) the [0, 1] view of one map as pictures show it: smoothed where single pixels would not be seen."""
        raw = self.raw[block][image : image + 1]
        return unit_view(raw if self.contributions is None else _smooth(raw))[0]

    def title(self, block: int) -> str:
        """The name of a block: its layer's, where layers were asked for by name."""
        return self.layers.get(block, f"Block {block}")

    def _title(self, block: int, image: int) -> str:
        """The title of a block's picture, with its share of the decision if that is known, and with what it fails."""
        parts = []
        if self.contributions is not None and block in self.contributions.blocks:
            parts.append(f"{self.contributions.share[image, self.contributions.blocks.index(block)]:+.0%}")
        parts += self.doubts(image, block)
        return self.title(block) + (f" ({', '.join(parts)})" if parts else "")

    def plot(
        self,
        ax: "Axes | None" = None,
        *,
        image: int = 0,
        boxes: Mapping[int, np.ndarray] | None = None,
        true_boxes: np.ndarray | None = None,
    ) -> "Axes":
        """One image and, to its right, its heatmaps at all drawn blocks; with boxes as in `panels`."""
        titles, pictures = zip(*self.panels(image, boxes=boxes, true_boxes=true_boxes), strict=True)
        caption = f"{self.method}: {self.answer(image)}"
        named = ["from the map: light blue"] * (boxes is not None) + ["true: green"] * (true_boxes is not None)
        caption += f"; boxes {', '.join(named)}" if named else ""
        sizes = (f"{self.title(block)} {_size_text(self.raw[block].shape[1:])}" for block in self.blocks)
        caption += (
            f"\nValues of the maps: {', '.join(sizes)}; the image has {_size_text(self.images.shape[1:3])} pixels"
        )
        return panels(pictures, titles, caption=caption, colours=COLOURS, ax=ax)

    def coarseness(self) -> str:
        """A sentence on the last block's maps: how many values they have, and how many pixels each of them covers."""
        height, width = self.raw[self.blocks[-1]].shape[1:]
        of = self.images.shape[1:3]
        cell = (round(of[0] / height), round(of[1] / width))
        if max(cell) < 2:
            return ""
        return (
            f"The maps of {self.title(self.blocks[-1])} have {_size_text((height, width))} values for {_size_text(of)} pixels: "
            f"they cannot place a detail smaller than {_size_text(cell)} pixels."
        )

    def show(self, images: Iterable[int] | None = None) -> MapsView:
        """An interactive view for a notebook: sliders over images and blocks, and the strength of the overlay.

        `images`: their numbers, at most 24, by default the first ones. Without scripts the first image is shown. Raises
        InputError.

        Examples:
            >>> gradcam_blocks("runs/first", "images/crack").show()  # doctest: +SKIP
        """
        return MapsView(self, images)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per image and block: class explained, its probability, raw maximum and mean, all zero or not, checks."""
        rows = []
        for j, block in enumerate(self.blocks):
            flat = self.raw[block].reshape(len(self), -1)
            frame = {
                "file": self.files,
                "block": block,
                **({"layer": self.layers[block]} if self.layers else {}),
                "class": [self.explained(i) for i in range(len(self))],
                "probability": self.probabilities[np.arange(len(self)), self.classes],
                "raw_max": flat.max(axis=1),
                "raw_mean": flat.mean(axis=1),
                "is_zero": self.is_zero[:, j],
            }
            if self.contributions is not None:
                k = self.contributions.blocks.index(block)
                frame |= {"added": self.contributions.total[:, k], "share": self.contributions.share[:, k]}
            if self.checks is not None:
                frame |= self.checks.columns(block)
            rows.append(pd.DataFrame(frame))
        return pd.concat(rows, ignore_index=True)

    def _repr_html_(self) -> str:
        checked = f" {html.escape(self.checks.summary())}" if self.checks is not None else ""
        named = f"<b>{html.escape(self.method)}</b>: {plural(len(self), 'image')}."
        return f"<p>{named}{checked}</p>{table_html(self.to_dataframe())}"


def answer_text(file: str, explained: int, probabilities: np.ndarray, class_names: Sequence[str]) -> str:
    """The class explained and the predicted one with their probabilities, and the true one where the file's folder names it.

    Examples:
        >>> names = ("crack", "free")
        >>> answer_text("images/crack/1.png", 1, np.array([0.44, 0.56]), names)
        'predicted free (p = 0.56); true class crack'
        >>> answer_text("1.png", 0, np.array([0.44, 0.56]), names)
        'crack (p = 0.44); predicted free (p = 0.56)'
    """
    top, folder = int(probabilities.argmax()), Path(file).parent.name
    named = {number: f"{class_names[number]} (p = {probabilities[number]:.2f})" for number in (explained, top)}
    parts = [named[explained]] if explained != top else []
    parts += [f"predicted {named[top]}", *([f"true class {folder}"] if folder in class_names else [])]
    return "; ".join(parts)


def own_picture(file: str, shown: np.ndarray, bit_depth: int | None = None, longest: int = 640) -> np.ndarray:
    """The image read from its file, with at most `longest` pixels per side; `shown`, what the model saw, where that fails."""
    try:
        picture = read_image(file, bit_depth)
    except ImageError:
        return shown
    height, width = picture.shape[:2]
    scale = min(1.0, longest / max(height, width))
    return resize_image(picture, (max(round(height * scale), 1), max(round(width * scale), 1)))


def _size_text(shape: tuple[int, ...]) -> str:
    """(height, width) as people write it."""
    return f"{shape[0]}x{shape[1]}"


def _boxed(picture: np.ndarray, *boxes: tuple[np.ndarray, tuple[int, int, int]]) -> np.ndarray:
    """A picture with boxes (k, 4) in their colours, if there are any."""
    for shares, colour in boxes:
        picture = overlays.rectangles(picture, shares, colour) if len(shares) else picture
    return picture


def unit_view(raw: np.ndarray) -> np.ndarray:
    """The [0, 1] view of raw maps (n, h, w): negative values set to 0, each map divided by its maximum, if that is above 0.

    Examples:
        >>> unit_view(np.array([[[-1.0, 2.0], [4.0, 0.0]]])).tolist()
        [[[0.0, 0.5], [1.0, 0.0]]]
    """
    positive = np.maximum(raw, 0)
    peak = positive.max(axis=(1, 2), keepdims=True)
    return positive / np.where(peak > 0, peak, 1)


def _smooth(raw: np.ndarray) -> np.ndarray:
    """Raw maps (n, h, w) with a maximum at one pixel made visible: a Gaussian filter over a 30th of the longer side."""
    sigma = max(raw.shape[1:]) / 30
    return raw if sigma < 0.5 else np.stack([cv2.GaussianBlur(m, (0, 0), sigma) for m in raw])


def read_only(array: np.ndarray) -> np.ndarray:
    """The array, made read-only."""
    array.flags.writeable = False
    return array
