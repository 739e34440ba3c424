"""Scores of explanations as one table: the scores of this folder for heatmaps and superpixels, a chunk of images at a time.

What needs the map alone, or a mask, is cheap and made for every image. What asks the model is made for a seeded choice
of images, whose size `plan_effort` fits to a time.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from xaitune import evaluate
from xaitune._progress import Progress
from xaitune.data.geometry import map_to_image, resize_mask
from xaitune.errors import InputError
from xaitune.evaluate.road import fill_linear
from xaitune.explain.cam import CamMapper
from xaitune.explain.classifier import Classifier, open_classifier
from xaitune.explain.gradcam import BlockMapper, computing_model
from xaitune.explain.heatmaps import BlockHeatmaps, unit_view
from xaitune.explain.lime.result import Superpixels
from xaitune.explain.probabilities import Probabilities
from xaitune.stats import intervals as stats

# Score -> which is better ("" where neither is). The order of the columns, too.
SCORES = {
    "mass_inside": "high",
    "pointing_game": "high",
    "average_precision": "high",
    "best_iou": "high",
    "iou_at_0.5": "high",
    "mask_area": "",
    "gini": "",
    "entropy": "",
    "stability": "high",
    "average_drop": "low",
    "increase": "high",
    "deletion": "low",
    "insertion": "high",
    "road": "high",
}
STEPS = 10  # of deletion and insertion
FILL = "mean"
ROAD_PERCENTAGES = (20, 50, 80)
SECONDS = 120.0  # for what asks the model
MIN_IMAGES, MAX_IMAGES = 8, 256  # that what asks the model looks at
MASK_PIXELS = 2**21  # larger masks are scored at that many pixels
_TOGETHER = 8  # images between two reports of progress
_MAP_COST = 6  # network calls that the maps of two changed copies cost: forward and backward
Explanation = BlockHeatmaps | Superpixels
Ask = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[dict[str, np.ndarray], int]]


@dataclass(frozen=True)
class Effort:
    """How far the scores that ask the model go: `images` of all, deletion and insertion in `steps`; with its price."""

    images: int
    steps: int
    calls: int
    seconds: float


def score_maps(
    maps: Explanation,
    *,
    masks: Sequence[np.ndarray | None] | None = None,
    model: Any = None,
    steps: int = STEPS,
    images: int | None = None,
    groups: Sequence[Any] | None = None,
) -> pd.DataFrame:
    """One row an image and block, images in their order: SCORES by name, those that need a mask or a model if given.

    `maps`: heatmaps, scored by their [0, 1] view, or superpixels by their signed map (one row an image, 'superpixels'
    for the block). `masks`: one bool array an image, or None where there is none (its scores are NaN); of the file's
    size, so that scores are made in the file's own geometry, or of the model's input size. `mask_area` is what a map
    without information scores. `model`: as in `gradcam_blocks`; deletion and insertion (`steps`, fill FILL), average
    drop, ROAD at ROAD_PERCENTAGES and, for heatmaps, stability are then made for `images` of the images, chosen with
    seed 0 (all by default; the others are NaN). `groups`: names (n,) that `summarise` resamples. Raises InputError.
    """
    if steps < 1:
        raise InputError(f"steps must be at least 1. Received: steps={steps}.")
    for name, values in (("masks", masks), ("groups", groups)):
        if values is not None and len(values) != len(maps):
            raise InputError(f"{name} must hold one entry per image ({len(maps)}). Received: {len(values)}.")
    classifier = None if model is None else open_classifier(model)
    if classifier is not None and classifier.image_size != maps.images.shape[1:3]:
        raise InputError(
            f"The maps must be of the model's input size {classifier.image_size}. Received: {maps.images.shape[1:3]}."
        )
    count = 0 if classifier is None else len(maps) if images is None else images
    scorer = Scorer(len(maps), count)
    scorer.add(maps, masks, groups)
    return scorer.finish(classifier, steps)


class Scorer:
    """Scores explanations as they come, `total` in all; keeps the `count` chosen ones in memory until `finish`."""

    def __init__(self, total: int, count: int) -> None:
        self.chosen = draw_images(total, count)
        self.tables: list[pd.DataFrame] = []
        self.kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # images, maps, classes
        self.seen = self.calls = 0
        self.last: Explanation | None = None

    def add(
        self,
        made: Explanation,
        masks: Sequence[np.ndarray | None] | None = None,
        groups: Sequence[Any] | None = None,
    ) -> None:
        """Score what needs no model; `masks` and `groups` have one entry per image."""
        table, maps = _rows(made), _at_input_size(made)
        columns = evaluate.map_concentration(maps)._asdict()
        if masks is not None:
            columns |= _against_masks(made, masks)
        if groups is not None:
            table["group"] = np.repeat(np.asarray(groups), maps.shape[1])
        for name in SCORES:
            if name in columns:
                table[name] = np.asarray(columns[name]).ravel()
        self.tables.append(table)
        rows = self.chosen[(self.chosen >= self.seen) & (self.chosen < self.seen + len(made))] - self.seen
        if len(rows):
            self.kept.append((np.asarray(made.images[rows], np.float32), maps[rows], made.classes[rows]))
        self.seen, self.last = self.seen + len(made), made

    def finish(self, classifier: Classifier | None, steps: int, progress: Progress | None = None) -> pd.DataFrame:
        """The table, with the scores of the chosen images that ask the model `classifier`."""
        table = pd.concat(self.tables, ignore_index=True)
        if classifier is None or not self.kept or self.last is None:
            return table
        blocks = len(table) // self.seen
        for name, scores in self._asked(_asker(classifier, self.last, steps), steps, progress).items():
            values = np.full((self.seen, blocks), np.nan)
            values[self.chosen] = scores
            table[name] = values.ravel()
        return table[[name for name in table if name not in SCORES] + [name for name in SCORES if name in table]]

    def _asked(self, ask: Ask, steps: int, progress: Progress | None) -> dict[str, np.ndarray]:
        """Score -> (chosen images, blocks)."""
        images, maps, classes = (np.concatenate(part) for part in zip(*self.kept, strict=True))
        parts: list[dict[str, np.ndarray]] = []
        for start in range(0, len(images), _TOGETHER):
            some = slice(start, start + _TOGETHER)
            found, calls = ask(images[some], maps[some], classes[some])
            parts.append(found)
            self.calls += calls
            if progress:
                progress(min(some.stop, len(images)), len(images), f"{steps} steps, {self.calls:,} network calls")
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def draw_images(total: int, count: int) -> np.ndarray:
    """Positions of `count` of `total` images, ascending, chosen with seed 0."""
    return np.sort(np.random.default_rng(0).permutation(total)[:count])


def _asker(classifier: Classifier, made: Explanation, steps: int) -> Ask:
    """What asks the model about images, maps (n, blocks, h, w) and classes: the scores, and the calls that they took."""
    predict, rng = Probabilities(classifier), np.random.default_rng(0)
    mapper: Any = None
    if isinstance(made, BlockHeatmaps):  # superpixels would cost thousands of calls an image
        model, _ = computing_model(classifier.model, made.precision)
        mapper = CamMapper(model) if made.method == "cam" else BlockMapper(model, made.blocks, made.rule)

    def ask(images: np.ndarray, maps: np.ndarray, classes: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
        def explain(changed: np.ndarray) -> np.ndarray:
            return unit_maps(mapper(changed, classes)[0], classifier.image_size)

        areas = evaluate.deletion_insertion(predict, images, maps, classes, steps=steps, fill=FILL)
        drop = evaluate.average_drop_increase(predict, images, maps, classes)
        road = evaluate.road_scores(predict, images, maps, classes, percentages=ROAD_PERCENTAGES)
        found = {"average_drop": drop.drop, "increase": drop.increase, "road": road.score}
        found |= {"deletion": areas.deletion, "insertion": areas.insertion}
        calls = areas.calls + drop.calls + road.calls
        if mapper is not None:
            found["stability"] = evaluate.input_stability(explain, images, rng, maps=maps)
            calls += 2 * len(images)
        return found, calls

    return ask


# ---- explanations as arrays


def unit_maps(raw: dict[int, np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """(n, blocks, h, w) float32: the [0, 1] views of raw maps at one size, so that blocks can be laid over each other."""
    made = [[map_to_image(m, size, size) for m in unit_view(raw[b])] for b in sorted(raw)]
    return np.array(made, np.float32).transpose(1, 0, 2, 3)


def _at_input_size(made: Explanation) -> np.ndarray:
    """(n, blocks, h, w) float32 maps at the model's input size."""
    if isinstance(made, BlockHeatmaps):
        return unit_maps(made.raw, made.images.shape[1:3])
    return np.array([[made.signed_map(i)] for i in range(len(made))], np.float32)


def _rows(made: Explanation) -> pd.DataFrame:
    """One row an image and block, image by image, without scores."""
    if isinstance(made, BlockHeatmaps):
        order = np.arange(len(made) * len(made.blocks)).reshape(len(made.blocks), -1).T.ravel()
        return made.to_dataframe().iloc[order].reset_index(drop=True)
    maps = _at_input_size(made)[:, 0]
    frame = {
        "file": made.files,
        "block": "superpixels",
        "class": [made.explained(i) for i in range(len(made))],
        "probability": made.probabilities[np.arange(len(made)), made.classes],
        "raw_max": maps.max((1, 2)),
        "raw_mean": maps.mean((1, 2)),
        "is_zero": maps.max((1, 2)) <= 0,
    }
    return pd.DataFrame(frame)


def _against_masks(made: Explanation, masks: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
    """Score -> (n, blocks); NaN where an image has no mask, or (but for mask_area) an empty one."""
    blocks = len(made.blocks) if isinstance(made, BlockHeatmaps) else 1
    names = ("mass_inside", "pointing_game", "average_precision", "best_iou", "iou_at_0.5", "mask_area")
    found = np.full((len(names), len(made), blocks), np.nan)
    for i, given in enumerate(masks):
        if given is None:
            continue
        mask = np.asarray(given) != 0
        if mask.ndim != 2:
            raise InputError(f"A mask must be (height, width). Received: shape {mask.shape}.")
        scored = evaluate.localise(*_on_mask(made, i, mask))
        found[:, i] = np.stack([*scored, np.full(blocks, mask.mean())])
    return dict(zip(names, found, strict=True))


def _on_mask(made: Explanation, image: int, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(blocks, h, w) maps of one image in its mask's geometry, and the mask, thinned out where it is very large."""
    size = made.images.shape[1:3]
    resize = "stretch" if mask.shape == size else made.resize
    if mask.size > MASK_PIXELS:
        scale = (MASK_PIXELS / mask.size) ** 0.5
        mask = resize_mask(mask, (max(1, int(mask.shape[0] * scale)), max(1, int(mask.shape[1] * scale))))
    if isinstance(made, Superpixels):
        return map_to_image(made.signed_map(image), mask.shape, size, resize, nearest=True)[None], mask
    views = (unit_view(made.raw[b][image : image + 1])[0] for b in made.blocks)
    return np.stack([map_to_image(v, mask.shape, size, resize) for v in views]), mask


# ---- effort and summary


def measure_costs(classifier: Classifier, images: np.ndarray) -> tuple[float, float]:
    """Seconds of one network call (in a batch of 64) and of filling half an image, on the machine at hand."""
    batch = np.resize(images, (64, *images.shape[1:])).astype(np.float32)
    predict = Probabilities(classifier)
    predict(batch)  # the first call compiles
    start = time.perf_counter()
    predict(batch)
    called = time.perf_counter()
    known = np.zeros((1, *images.shape[1:3]), bool)
    known[:, : known.shape[1] // 2] = True
    fill_linear(batch[:1], known)
    return (called - start) / len(batch), time.perf_counter() - called


def plan_effort(
    total: int,
    blocks: int,
    costs: tuple[float, float],
    *,
    stable: bool = True,
    images: int | None = None,
    steps: int | None = None,
    seconds: float = SECONDS,
) -> Effort:
    """Images and steps that take about `seconds`: STEPS and fewer images, at least MIN_IMAGES, then fewer steps.

    `total`: images there are. `costs`: as `measure_costs` gives them. `images` and `steps` are kept where they are
    given; at most MAX_IMAGES images are chosen, since they are held in memory. Raises InputError for values below 1.
    """
    for name, value in (("images", images), ("steps", steps)):
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1. Received: {name}={value}.")
    fills = 2 * len(ROAD_PERCENTAGES) * blocks

    def price(count: int, steps: int) -> tuple[int, float]:
        calls = 2 + 2 * blocks * (steps - 1) + (1 + blocks) + fills
        work = calls + _MAP_COST * stable
        return count * (calls + 2 * stable), count * (work * costs[0] + fills * costs[1])

    least = min(total, MIN_IMAGES)
    fitting = int(seconds / max(price(1, steps or STEPS)[1], 1e-9))
    count = min(images, total) if images else int(np.clip(fitting, least, min(total, MAX_IMAGES)))
    tried = [steps] if steps else range(STEPS, 1, -1)
    best = next((s for s in tried if price(count, s)[1] <= seconds), tried[-1])
    return Effort(count, best, *price(count, best))


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """One row a block and score: mean, 95 % interval, and how many images it rests on.

    Intervals resample the column `group` of a table from `score_maps` where it has one, else images.
    """
    names = [name for name in SCORES if name in table]
    parts = []
    for block, rows in table.groupby("block", sort=False):
        groups = rows["group"].to_numpy() if "group" in rows else None
        mean, low, high = stats.mean_intervals(rows[names], groups)
        frame = {"block": block, "score": names, "mean": mean, "low": low, "high": high}
        parts.append(pd.DataFrame(frame | {"images": rows[names].notna().sum().to_numpy()}))
    return pd.concat(parts, ignore_index=True)


def printable(summary: pd.DataFrame) -> pd.DataFrame:
    """Scores x blocks as text: 'mean [low, high]', and an arrow for which way is better."""

    def cell(mean: float, low: float, high: float) -> str:
        if not np.isfinite(mean):
            return ""
        value = f"{mean:.2f}" if abs(mean) >= 0.1 or mean == 0 else f"{mean:.3f}"
        bounds = [
            f"{round(b, 2) + 0.0:.2f}".replace("0.", ".", 1) for b in (low, high)
        ]  # short: five blocks fit a line
        return f"{value} [{', '.join(bounds)}]" if np.isfinite(low) else value

    arrows = {"high": "↑", "low": "↓", "": ""}
    shown = summary.assign(
        text=[cell(*row) for row in summary[["mean", "low", "high"]].to_numpy()],
        block=[f"Block {b}" if isinstance(b, int | np.integer) else b for b in summary["block"]],
        score=[name + arrows[SCORES[name]] for name in summary["score"]],
    )
    return shown.pivot(index="score", columns="block", values="text").loc[shown["score"].unique()].rename_axis("score")
