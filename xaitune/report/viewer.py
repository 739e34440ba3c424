"""The image viewer of the page: which test images it shows, and their pictures and maps as small data URIs."""

import base64
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd

from xaitune.data.resize import map_to_image
from xaitune.plots.overlays import ALPHA, heat_colours

MOST_IMAGES = 60
WRONG_SHARE = 0.6  # of the images shown, at most, are wrong ones
LONGEST_PICTURE, LONGEST_MAP, LONGEST_DRAWN = (
    224,
    64,
    448,
)  # pixels: of a picture, of a map, and of both as they are drawn
MOST_BYTES = 4_500_000  # of all pictures and maps; beyond it the page keeps one rule, then fewer images
QUALITY = 85  # of the JPEGs
RULE_NAMES = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "hirescam": "HiResCAM",
    "xgradcam": "XGrad-CAM",
    "layercam": "LayerCAM",
}


@dataclasses.dataclass(frozen=True)
class ViewedImage:
    """One test image of the viewer.

    `shares`: class -> probability, the largest first; empty for a segmentation, which has its `iou` instead. `explained`: the
    class of its maps. `picture` and `maps` (rule -> all blocks below one another) are data URIs, `empty` the blocks without
    positive evidence by rule, `outline` polygons around the mask's regions (`mask_outline`), and `size` the picture's (w, h).
    `true_maps` and `true_empty` are those of the true class, of an image that was classified wrongly. `doubts`: of each
    block what speaks against its Grad-CAM map of `explained`, in words, '' for nothing; () where the maps were not checked.
    `fold`: the number of the fold that tested it, whose model the maps are of; '' without a cross-validation.
    """

    file: str
    true: int
    predicted: int
    explained: int
    shares: tuple[tuple[int, float], ...]
    iou: float | None
    size: tuple[int, int]
    picture: str
    maps: dict[str, str]
    empty: dict[str, tuple[int, ...]]
    outline: tuple[tuple[int, ...], ...] = ()
    true_maps: dict[str, str] = dataclasses.field(default_factory=dict)
    true_empty: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    fold: str = ""

    @property
    def cost(self) -> int:
        """How many bytes it adds to the page."""
        return len(self.picture) + sum(map(len, (*self.maps.values(), *self.true_maps.values())))


@dataclasses.dataclass(frozen=True)
class Viewed:
    """The test images of one training that the viewer shows, out of `tested` ones, with maps at `blocks`.

    `input`: how the network sees an image, such as '64 x 64 pixels (stretched)'. `folds`: how many folds they come from;
    0 without a cross-validation.
    """

    run: str
    class_names: tuple[str, ...]
    blocks: tuple[int, ...]
    images: tuple[ViewedImage, ...]
    tested: int
    input: str = ""
    folds: int = 0


def choose_viewed(test: pd.DataFrame, class_names: Sequence[str], most: int = MOST_IMAGES) -> list[int]:
    """Positions of the rows of a run's test predictions to show: wrong ones first, those it was surest of at the top.

    The wrong ones come from all pairs of true and predicted class in turn, the right ones from all classes, the surest and the
    least sure ones alternating.
    """
    table = pd.DataFrame({"true": test["true"].to_numpy(), "predicted": test["predicted"].to_numpy()})
    table["sure"] = sureness(test, class_names)
    table = table.sort_values("sure", ascending=False, kind="stable")
    wrong, right = table[table["true"] != table["predicted"]], table[table["true"] == table["predicted"]]
    wrong = wrong.assign(turn=wrong.groupby(["true", "predicted"]).cumcount())
    count = max(round(WRONG_SHARE * most), most - len(right))
    chosen = wrong.sort_values("turn", kind="stable")[:count].sort_values("sure", ascending=False, kind="stable")
    place = right.groupby("true").cumcount().to_numpy()
    behind = right.groupby("true").cumcount(ascending=False).to_numpy()
    right = right.assign(turn=np.minimum(2 * place, 2 * behind + 1))  # first, last, second, last but one, ...
    rest = right.sort_values("turn", kind="stable")[: most - len(chosen)].sort_values(["true", "turn"], kind="stable")
    return [int(i) for i in (*chosen.index, *rest.index)]


def sureness(test: pd.DataFrame, class_names: Sequence[str]) -> np.ndarray:
    """(n,) the probability of the predicted class; of a segmentation 1 - IoU, so that the worst images come first."""
    columns = [f"p({name})" for name in class_names]
    if set(columns) <= set(test):
        return test[columns].to_numpy(float).max(axis=1)
    return 1 - np.nan_to_num(image_ious(test))


def image_ious(test: pd.DataFrame) -> np.ndarray:
    """(n,) the IoU of each image's region in a segmentation's predictions; NaN where there is none to find, or no IoUs at all."""
    return pd.to_numeric(test["iou"], errors="coerce").to_numpy(float) if "iou" in test else np.full(len(test), np.nan)


def picture_uri(picture: np.ndarray) -> str:
    """An image (h, w, 3) RGB, or (h, w) grey, uint8, as a JPEG inside the page."""
    pixels = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    content = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


def map_sheet(views: Sequence[np.ndarray], size: tuple[int, int], input_size: tuple[int, int], resize: str) -> str:
    """[0, 1] maps of one image, one for each block, below one another: grey, at most LONGEST_MAP pixels a side each.

    `size`: the picture's (w, h), whose aspect the maps get; `input_size`: the model's (h, w), which they cover.
    """
    width, height = map_size(size)
    cells = []
    for view in views:
        small = tuple(min(n, LONGEST_MAP) for n in view.shape)
        shrunk = cv2.resize(view, small[::-1], interpolation=cv2.INTER_AREA) if small != view.shape else view
        cells.append(map_to_image(shrunk, (height, width), input_size, resize))
    return picture_uri(np.rint(np.concatenate(cells).clip(0, 1) * 255).astype(np.uint8))


def map_size(size: tuple[int, int]) -> tuple[int, int]:
    """(w, h) of a map for a picture of that (w, h)."""
    scale = LONGEST_MAP / max(size)
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def mask_outline(mask: np.ndarray, size: tuple[int, int]) -> tuple[tuple[int, ...], ...]:
    """Polygons x, y, x, y, ... around the regions of a mask (h, w) bool, in a picture of that (w, h) as it is drawn."""
    scale = LONGEST_DRAWN / max(size)
    drawn = [max(round(side * scale), 1) for side in size]
    large = cv2.resize(mask.astype(np.uint8) * 255, drawn, interpolation=cv2.INTER_LINEAR)
    found, _ = cv2.findContours((large >= 128).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    thinned = (cv2.approxPolyDP(np.ascontiguousarray(contour), 1.0, True) for contour in found)
    return tuple(tuple(int(v) for v in polygon.reshape(-1)) for polygon in thinned)


def within_budget(images: Sequence[ViewedImage], most: int = MOST_BYTES) -> tuple[ViewedImage, ...]:
    """The images, with their first rule alone where all rules would make the page too large, and then fewer of them."""
    kept = list(images)
    if sum(image.cost for image in kept) > most:
        kept = [_with_one_rule(image) for image in kept]
    while sum(image.cost for image in kept) > most:
        kept.pop()
    return tuple(kept)


def _with_one_rule(image: ViewedImage) -> ViewedImage:
    maps, true_maps = (dict(list(sheets.items())[:1]) for sheets in (image.maps, image.true_maps))
    return dataclasses.replace(image, maps=maps, true_maps=true_maps)


def viewer_section(viewed: Viewed | None, doubtful: Mapping[str, str] | None = None) -> dict[str, Any] | None:
    """What the page says of the viewer, and the data that its script shows; `doubtful`: file -> the class suggested for it."""
    if viewed is None or not viewed.images:
        return None
    wrong = sum(image.true != image.predicted for image in viewed.images)
    rules = list(viewed.images[0].maps)
    return {
        "run": viewed.run,
        "folds": viewed.folds,
        "shown": len(viewed.images),
        "input": viewed.input or "its input size",
        "wrong": wrong,
        "tested": viewed.tested,
        "rules": [(rule, RULE_NAMES.get(rule, rule)) for rule in rules],
        "one_rule": len(rules) == 1,
        "blocks": viewed.blocks,
        "true_maps": any(image.true_maps for image in viewed.images),
        "doubtful": sum(map(bool, itertools.chain(*(image.doubts for image in viewed.images)))),
        "checked": sum(len(image.doubts) for image in viewed.images),
        "masks": any(image.outline for image in viewed.images),
        "sure": bool(viewed.images[0].shares),
        "classes": list(enumerate(viewed.class_names)),
        "strength": round(100 * ALPHA),
        "data": {
            "classes": viewed.class_names,
            "blocks": viewed.blocks,
            "longest": LONGEST_DRAWN,
            "colours": heat_colours(np.linspace(0, 1, 256)).reshape(-1).tolist(),
            "images": [_image_data(image) | {"label": (doubtful or {}).get(image.file, "")} for image in viewed.images],
        },
    }


def _image_data(image: ViewedImage) -> dict[str, Any]:
    return dataclasses.asdict(image) | {
        "shares": [(number, round(share, 4)) for number, share in image.shares],
        "iou": None if image.iou is None else round(image.iou, 3),
        "map": map_size(image.size),
    }
