"""Boxes from heatmaps: the connected regions above a share of a map's maximum, in the pixels of the image's file.

A classifier that was trained without a single box so becomes a weak detector (Zhou et al. 2016, 'Learning Deep Features
for Discriminative Localization').
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd

from xaitune._names import plural
from xaitune._notebook import table_html
from xaitune.config.explain_settings import BoxOptions
from xaitune.data.images import image_header
from xaitune.data.resize import map_to_image
from xaitune.errors import ImageError
from xaitune.explain.heatmaps import BlockHeatmaps

COLUMNS = ("file", "block", "rule", "class", "x", "y", "width", "height", "score", "area", "threshold")
SIDES = ["x", "y", "width", "height"]
_MOST_PIXELS = 2**21  # maps of larger files are cut into regions at about this many pixels


@dataclasses.dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes around the regions of heatmaps of n images.

    `table`: one row per box, with the COLUMNS and first the `image`, the position of its image. `images`: one row per image,
    also for those without a box: `file`, and the file's `width` and `height` in pixels. `blocks`: the blocks that were looked
    at; `layers`: block -> its layer, where layers were asked for by name. `class_names`: the model's classes. `options`: what
    was given a box.
    """

    table: pd.DataFrame
    images: pd.DataFrame
    blocks: tuple[int, ...]
    class_names: tuple[str, ...]
    options: BoxOptions
    layers: dict[int, str] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.table)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per box: file, block, rule, class, x, y, width, height, score, area, threshold.

        `x` and `y` are the left and upper edge in pixels of the file, from 0; `width`, `height` and `area` (of the region, not
        of its box) are in pixels too. `score`: the region's largest value as a share of the map's maximum in the image, in
        `threshold`..1. `class` is the class that was explained. After the block comes its `layer`, where layers were asked for.
        """
        table = self.table.drop(columns="image")
        if self.layers:
            table.insert(2, "layer", [self.layers[block] for block in table["block"]])
        return table

    def of_image(self, image: int) -> dict[int, np.ndarray]:
        """block -> (k, 4) x, y, width and height of the image's boxes, as shares of its width and height."""
        rows, (height, width) = self.table[self.table["image"] == image], self.size(image)
        scale = np.array([width, height, width, height], float)
        return {b: rows.loc[rows["block"] == b, SIDES].to_numpy(float) / scale for b in self.blocks}

    def size(self, image: int) -> tuple[int, int]:
        """(height, width) of an image's file in pixels."""
        row = self.images.iloc[image]
        return int(row["height"]), int(row["width"])

    def to_coco(self, block: int | None = None) -> dict[str, Any]:
        """The boxes as a COCO data set (https://cocodataset.org/#format-data), which `json.dump` takes as it is.

        `images` and `annotations` count from 1, categories too (a class's number + 1); `bbox` is [x, y, width, height] in
        pixels from 0, `area` that of the box, `segmentation` its outline. Besides, an annotation has its `score` and `block`.
        With several blocks one thing has several boxes: give a `block` for what a detector would return.
        """
        rows = self.table if block is None else self.table[self.table["block"] == block]
        return {
            "info": {"description": f"Boxes around what reaches {self.options.threshold:g} of a heatmap's maximum"},
            "images": [
                {"id": i, "file_name": str(file), "width": int(width), "height": int(height)}
                for i, (file, width, height) in enumerate(self.images[["file", "width", "height"]].to_numpy(object), 1)
            ],
            "annotations": [self._annotation(number, row) for number, row in enumerate(rows.to_dict("records"), 1)],
            "categories": [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(self.class_names, 1)],
        }

    def _annotation(self, number: int, row: dict[str, Any]) -> dict[str, Any]:
        x, y, width, height = (int(row[side]) for side in SIDES)
        return {
            "id": number,
            "image_id": int(row["image"]) + 1,
            "category_id": self.class_names.index(row["class"]) + 1,
            "bbox": [x, y, width, height],
            "area": width * height,
            "segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]],
            "iscrowd": 0,
            "score": float(row["score"]),
            "block": int(row["block"]),
        }

    def _repr_html_(self) -> str:
        count = f"{plural(len(self), 'box')} in {plural(len(self.images), 'image')}"
        return f"<p>{count}</p>{table_html(self.to_dataframe())}"


def boxes_from_maps(
    maps: BlockHeatmaps, *, threshold: float = 0.2, regions: str = "largest", min_area: float = 0.001
) -> Boxes:
    """Boxes around the connected regions of each map that reach `threshold` times its maximum, in the file's own geometry.

    `threshold` is above 0 and at most 1. `regions`: 'largest' gives each map one box, that of its largest region (ties: of the
    higher score), as in Zhou et al. 2016 with their threshold of 0.2; 'all' gives every region a box that covers at least
    the share `min_area` (0..1) of the image, and the largest one in any case. Regions are connected over corners too
    (8 neighbours; the paper does not say). A map without a positive value gets no box. Maps are resized bilinearly to the
    file before they are cut, so the maximum is that within the image, without any padding. Boxes are whole pixels. An
    image that is not in a file keeps the model's input size. Raises ConfigError.

    Examples:
        >>> boxes = boxes_from_maps(gradcam_blocks(run, paths), threshold=0.3)  # doctest: +SKIP
        >>> boxes.to_dataframe().query("block == 5")  # doctest: +SKIP
    """
    options = BoxOptions(threshold, regions, min_area)
    sizes = [_size(file, shown) for file, shown in zip(maps.files, maps.images, strict=True)]
    views = maps.view
    parts = []
    for i, size in enumerate(sizes):
        about = {
            "image": i,
            "file": maps.files[i],
            "rule": maps.rule if maps.method == "gradcam" else maps.method,
            "class": maps.explained(i),
            "threshold": options.threshold,
        }
        for block in maps.blocks:
            found = _boxes_of(views[block][i], size, maps.images.shape[1:3], maps.resize, options)
            parts += [about | {"block": block} | row for row in found]
    images = pd.DataFrame({"file": maps.files, "width": [s[1] for s in sizes], "height": [s[0] for s in sizes]})
    table = pd.DataFrame(parts, columns=["image", *COLUMNS])
    return Boxes(table, images, maps.blocks, maps.class_names, options, maps.layers)


def join_boxes(parts: Sequence[Boxes]) -> Boxes:
    """The boxes of several batches of images as one."""
    starts = np.cumsum([0, *(len(part.images) for part in parts[:-1])])
    tables = [part.table.assign(image=part.table["image"] + start) for part, start in zip(parts, starts, strict=True)]
    kept = [table for table in tables if len(table)] or tables[:1]  # an empty one would change the columns' types
    images = pd.concat([part.images for part in parts], ignore_index=True)
    return dataclasses.replace(parts[0], table=pd.concat(kept, ignore_index=True), images=images)


def connected_regions(marked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) numbers of the connected regions of a bool array, 0 outside; and (k, 5) int x, y, width, height, area of each.

    Examples:
        >>> connected_regions(np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1]], bool))[1].tolist()
        [[0, 0, 2, 1, 2], [2, 2, 1, 1, 1]]
    """
    _, numbers, found, _ = cv2.connectedComponentsWithStats(marked.astype(np.uint8), connectivity=8)
    return numbers, found[1:].astype(int)


def _size(file: str, shown: np.ndarray) -> tuple[int, int]:
    """(height, width) of an image's file, or of what the model saw where there is no file."""
    try:
        header = image_header(file)
    except ImageError:
        return shown.shape[0], shown.shape[1]
    return header.height, header.width


def _boxes_of(
    view: np.ndarray, size: tuple[int, int], input_size: tuple[int, ...], resize: str, options: BoxOptions
) -> list[dict[str, Any]]:
    """The boxes of one [0, 1] view in an image of `size`, the highest score first."""
    shrink = min(1.0, (_MOST_PIXELS / (size[0] * size[1])) ** 0.5)
    height, width = (max(1, round(side * shrink)) for side in size)
    heat = map_to_image(view, (height, width), (input_size[0], input_size[1]), resize)
    peak = heat.max()
    if peak <= 0:
        return []
    marked = heat >= options.threshold * peak
    numbers, regions = connected_regions(marked)
    scores = np.zeros(len(regions))
    np.maximum.at(scores, numbers[marked] - 1, heat[marked] / peak)
    order = np.lexsort((-regions[:, 4], -scores))
    largest = np.lexsort((-scores, -regions[:, 4]))[0]
    big = regions[:, 4] >= options.min_area * heat.size
    chosen = [r for r in order if r == largest or (options.regions == "all" and big[r])]
    scale = np.array([size[1] / width, size[0] / height])
    first = np.floor(regions[chosen, :2] * scale).astype(int)
    last = np.ceil((regions[chosen, :2] + regions[chosen, 2:4]) * scale).astype(int)  # exclusive
    last = np.minimum(last, size[::-1])
    areas = np.rint(regions[chosen, 4] * scale.prod()).astype(int)
    return [
        dict(zip((*SIDES, "area", "score"), (*map(int, (*a, *(b - a), area)), float(score)), strict=True))
        for a, b, area, score in zip(first, last, areas, scores[chosen], strict=True)
    ]
