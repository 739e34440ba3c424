"""The true boxes of images: those of their masks' regions, of a CSV file,x,y,width,height[,class], or of a COCO file."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from xaitune.data.images import image_header
from xaitune.data.listing import nfc
from xaitune.errors import DataError
from xaitune.explain.boxes import SIDES, connected_regions

SPECK = 1e-4  # a mask's regions below this share of the image are left out, if there is a larger one
_BEYOND = 1.0  # pixels that a box may reach beyond its image, as boxes with fractions do
_LEVELS = 3  # folders above an image in which other images are looked for


@dataclass(frozen=True, eq=False)
class TrueBoxes:
    """The true boxes of n images.

    `boxes`: for each image (k, 4) x, y, width, height in pixels of its file, or None where nothing is known of it.
    `classes`: for each image the class of each box, or None where the boxes have no classes.
    """

    boxes: tuple[np.ndarray | None, ...]
    classes: tuple[tuple[str, ...] | None, ...]

    def __len__(self) -> int:
        return len(self.boxes)


def boxes_of_mask(mask: np.ndarray) -> np.ndarray:
    """(k, 4) x, y, width, height of the boxes around the connected regions (8 neighbours) of a mask (h, w).

    Regions below SPECK of the image, slips of the brush, are left out; where all are, the largest one is kept. An empty mask
    has no box.

    Examples:
        >>> boxes_of_mask(np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1]])).tolist()
        [[0, 0, 2, 1], [2, 2, 1, 1]]
    """
    _, regions = connected_regions(np.asarray(mask) != 0)
    areas = regions[:, 4]
    return regions[areas >= min(SPECK * np.size(mask), areas.max(initial=0)), :4]


def boxes_of_masks(masks: Sequence[np.ndarray | None]) -> TrueBoxes:
    """The true boxes of images with masks in their files' geometry; None for an image without a mask."""
    boxes = tuple(None if mask is None else boxes_of_mask(mask) for mask in masks)
    return TrueBoxes(boxes, (None,) * len(boxes))


def read_true_boxes(source: str | Path | pd.DataFrame, files: Sequence[str | Path]) -> TrueBoxes:
    """The true boxes of the images `files`, from a CSV, a COCO .json file, or a DataFrame with the columns of the CSV.

    The CSV has one row per box: file, x, y, width, height in pixels, from 0, and class if there are classes. A row with
    nothing but a file says that its image has no box. A file is named by the end of its path, such as part.png or
    crack/part.png. Of a COCO file the keys images, annotations and, for the classes, categories are read. An image that is not
    named is not known. Boxes of images that exist but are not among `files` are passed over. Raises DataError for a
    missing column or key, a box without an area or outside its image, and an image that is not there.
    """
    if isinstance(source, pd.DataFrame):
        name, table, folders = "The table of boxes", source.copy(), set()
    else:
        path = Path(source)
        name, folders = str(path), {path.absolute().parent}
        table = _read_coco(path) if path.suffix.lower() == ".json" else _read_csv(path)
    table = _checked(table, name)
    paths = [Path(file).absolute() for file in files]
    rows_of = _rows_by_image(table, paths, name, folders)
    boxes: list[np.ndarray | None] = [None] * len(paths)
    classes: list[tuple[str, ...] | None] = [None] * len(paths)
    for image, rows in rows_of.items():
        own = table.iloc[rows]
        own = own[own["width"].notna()]
        _check_inside(own, paths[image], name)
        boxes[image] = own[SIDES].to_numpy(float)
        if "class" in own:
            classes[image] = tuple(own["class"].fillna("").astype(str))
    return TrueBoxes(tuple(boxes), tuple(classes))


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype={"file": str, "class": str}, skipinitialspace=True)
    except FileNotFoundError:
        raise DataError(f"No file of boxes at {path}. Check the path.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as CSV ({error}).") from None


def _read_coco(path: Path) -> pd.DataFrame:
    """A COCO file as a table like that of a CSV; an image without annotations gets a row without a box."""
    try:
        coco = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"No file of boxes at {path}. Check the path.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}).") from None
    lacking = [key for key in ("images", "annotations") if not isinstance(coco, dict) or key not in coco]
    if lacking:
        what = f"the keys {', '.join(coco)}" if isinstance(coco, dict) else f"a {type(coco).__name__}"
        raise DataError(f"{path} is not a COCO file: it lacks {' and '.join(map(repr, lacking))}. Received: {what}.")
    rows = []
    try:
        files = {image["id"]: image["file_name"] for image in coco["images"]}
        names = {category["id"]: category["name"] for category in coco.get("categories", [])}
        for box in coco["annotations"]:
            x, y, width, height = box["bbox"]
            sides = {"x": x, "y": y, "width": width, "height": height}
            rows.append({"file": files[box["image_id"]], **sides, "class": names.get(box.get("category_id"), "")})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path} is not a COCO file: images need id and file_name, annotations image_id and bbox [x, y, width, height] "
            f"({type(error).__name__}: {error})."
        ) from None
    known = {row["file"] for row in rows}
    rows += [{"file": file} for file in files.values() if file not in known]
    table = pd.DataFrame(rows, columns=["file", *SIDES, "class"])
    return table if names else table.drop(columns="class")


def _checked(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The table with numbers in its columns and one form of file names."""
    lacking = [column for column in ("file", *SIDES) if column not in table]
    if lacking:
        raise DataError(
            f"{name} lacks the column{'s' * (len(lacking) > 1)} {', '.join(lacking)}. Needed: file,x,y,width,height[,class]. "
            f"Received: {','.join(map(str, table.columns))}."
        )
    table["file"] = [nfc(str(file).replace("\\", "/")) for file in table["file"]]
    sides = table[SIDES].apply(pd.to_numeric, errors="coerce").astype(float)
    whole = np.isfinite(sides).all(axis=1)
    _refuse(table, ~whole & table[SIDES].notna().any(axis=1), name, "needs four numbers: x, y, width, height")
    _refuse(table, whole & (sides[["width", "height"]] <= 0).any(axis=1), name, "has no area")
    table[SIDES] = sides
    return table


def _refuse(table: pd.DataFrame, bad: pd.Series, name: str, why: str) -> None:
    """Raise DataError for the first bad row."""
    if bad.any():
        row = table[bad].iloc[0]
        received = ", ".join(f"{side}={row[side]}" for side in SIDES)
        raise DataError(f"{name}: the box of {row['file']} {why}. Received: {received}.")


def _check_inside(rows: pd.DataFrame, path: Path, name: str) -> None:
    if len(rows):
        header = image_header(path)
        right, lower = rows["x"] + rows["width"], rows["y"] + rows["height"]
        outside = (rows[["x", "y"]] < -_BEYOND).any(axis=1)
        outside |= (right > header.width + _BEYOND) | (lower > header.height + _BEYOND)
        _refuse(
            rows,
            outside,
            name,
            f"reaches beyond the image, which is {header.width} pixels wide and {header.height} high",
        )


def _rows_by_image(table: pd.DataFrame, paths: Sequence[Path], name: str, folders: set[Path]) -> dict[int, list[int]]:
    """Position of an image in `paths` -> the rows of the table that name it."""
    by_ending: dict[str, list[int]] = defaultdict(list)
    for i, path in enumerate(paths):
        parts = nfc(path.as_posix()).strip("/").split("/")
        for start in range(len(parts)):
            by_ending["/".join(parts[start:])].append(i)
    places = folders | {parent for path in paths for parent in path.parents[:_LEVELS]}
    rows_of: dict[int, list[int]] = defaultdict(list)
    for file, rows in table.groupby("file", sort=False).indices.items():
        ending = str(file).removeprefix("./").strip("/")
        images = by_ending.get(ending, [])
        if len({paths[i] for i in images}) > 1:
            which = " and ".join(str(paths[i]) for i in images[:2])
            raise DataError(f"{name}: {file} may be {which}. Name its folder too.")
        if not images and not any((place / str(file)).exists() for place in places):
            raise DataError(f"{name} names {file}, and no such image is there. Correct the name or remove its rows.")
        for image in images:
            rows_of[image] += list(rows)
    if not rows_of:
        raise DataError(f"{name} names none of the images, such as {paths[0]}.")
    return rows_of
