"""All scores of explanations, heatmaps or superpixels, as one table, computed a chunk of images at a time.

Scores of the map alone or against a mask are cheap and computed for every image. Scores that query the model are
computed for a random sample of images, whose size `plan_effort` fits to a time limit.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from xaitune import evaluate
from xaitune._progress import Progress
from xaitune.data.resize import map_to_image, resize_mask
from xaitune.errors import InputError
from xaitune.evaluate.road import fill_linear
from xaitune.explain.api import mapper_of
from xaitune.explain.classifier import Classifier, open_classifier
from xaitune.explain.heatmaps import BlockHeatmaps, unit_view
from xaitune.explain.lime.result import Superpixels
from xaitune.explain.probabilities import Probabilities
from xaitune.stats import intervals as stats

# Score -> which values are better ("" where neither), in the order of the columns.
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
SECONDS = 120.0  # for the scores that query the model
MIN_IMAGES, MAX_IMAGES = 8, 256  # for which the scores that query the model are computed
MASK_PIXELS = 2**21  # larger masks are reduced to about this many pixels
_BATCH = 8  # images between two reports of progress
_MAP_COST = 6  # cost of the maps of two changed copies, forward and backward, in network calls
Explanation = BlockHeatmaps | Superpixels


@dataclass(frozen=True)
class Effort:
    """Effort for the scores that query the model: how many `images`, `steps` of deletion and insertion, and their cost."""

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
    """One row per image and block, in the order of the images, with the SCORES that the arguments allow.

    `maps`: heatmaps, scored by their [0, 1] view, or superpixels, scored by their signed map (one row per image, with
    'superpixels' as the block). `masks`: one bool array per image, or None for an image without one (its scores are
    NaN), either in the file's size, so that maps are scored in the file's own geometry, or in the model's input size.
    `mask_area` is the score of a map without information. `model`: as in `gradcam_blocks`; with it, deletion and
    insertion (`steps`, fill FILL), average drop, ROAD at ROAD_PERCENTAGES and, for heatmaps, stability are computed for
    `images` of the images, drawn with seed 0 (default: all; NaN for the rest). `groups`: group names (n,), which
    `summarise` resamples. Raises InputError.

    Examples:
        >>> table = score_maps(gradcam_blocks(run, paths), masks=masks, model=run)  # doctest: +SKIP
        >>> table.groupby("block")["average_precision"].mean()  # doctest: +SKIP
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
    """Scores `total` explanations batch by batch; keeps a random sample of `count` in memory until `finish`."""

    def __init__(self, total: int, count: int) -> None:
        self.chosen = draw_images(total, count)
        self.tables: list[pd.DataFrame] = []
        self.sample: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # images, maps, classes
        self.seen = self.calls = 0
        self.last: Explanation | None = None

    def add(
        self,
        explanation: Explanation,
        masks: Sequence[np.ndarray | None] | None = None,
        groups: Sequence[Any] | None = None,
    ) -> None:
        """Compute the scores that need no model; `masks` and `groups` have one entry per image."""
        table, maps = _rows(explanation), _at_input_size(explanation)
        columns = evaluate.map_concentration(maps)._asdict()
        if masks is not None:
            columns |= _against_masks(explanation, masks)
        if groups is not None:
            table["group"] = np.repeat(np.asarray(groups), maps.shape[1])
        for name in SCORES:
            if name in columns:
                table[name] = np.asarray(columns[name]).ravel()
        self.tables.append(table)
        count = len(explanation)
        rows = self.chosen[(self.chosen >= self.seen) & (self.chosen < self.seen + count)] - self.seen
        if len(rows):
            images = np.asarray(explanation.images[rows], np.float32)
            self.sample.append((images, maps[rows], explanation.classes[rows]))
        self.seen, self.last = self.seen + count, explanation

    def finish(self, classifier: Classifier | None, steps: int, progress: Progress | None = None) -> pd.DataFrame:
        """The table, with the scores that query the model `classifier` for the sample of images."""
        table = pd.concat(self.tables, ignore_index=True)
        if classifier is None or not self.sample or self.last is None:
            return table
        blocks = len(table) // self.seen
        for name, scores in self._score_sample(ModelScores(classifier, self.last, steps), progress).items():
            values = np.full((self.seen, blocks), np.nan)
            values[self.chosen] = scores
            table[name] = values.ravel()
        return table[[name for name in table if name not in SCORES] + [name for name in SCORES if name in table]]

    def _score_sample(self, model_scores: "ModelScores", progress: Progress | None) -> dict[str, np.ndarray]:
        """Score -> (images of the sample, blocks)."""
        images, maps, classes = (np.concatenate(part) for part in zip(*self.sample, strict=True))
        parts: list[dict[str, np.ndarray]] = []
        for start in range(0, len(images), _BATCH):
            batch = slice(start, start + _BATCH)
            scores, calls = model_scores(images[batch], maps[batch], classes[batch])
            parts.append(scores)
            self.calls += calls
            if progress:
                detail = f"{model_scores.steps} steps, {self.calls:,} network calls"
                progress(min(batch.stop, len(images)), len(images), detail)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def draw_images(total: int, count: int) -> np.ndarray:
    """Positions of a random sample of `count` of `total` images, ascending, drawn with seed 0."""
    return np.sort(np.random.default_rng(0).permutation(total)[:count])


class ModelScores:
    """The scores that query the model; for stability, changed images are explained in the same way as `explanation`.

    A call takes images (n, h, w, 3), maps (n, blocks, h, w) and classes (n,), and returns score -> (n, blocks) and the
    number of network calls.
    """

    def __init__(self, classifier: Classifier, explanation: Explanation, steps: int) -> None:
        self.size, self.steps = classifier.image_size, steps
        self.predict, self.rng = Probabilities(classifier), np.random.default_rng(0)
        self.mapper: Any = None
        if isinstance(explanation, BlockHeatmaps):  # superpixels would cost thousands of calls per image
            self.mapper = mapper_of(classifier.model, explanation)

    def __call__(self, images: np.ndarray, maps: np.ndarray, classes: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
        areas = evaluate.deletion_insertion(self.predict, images, maps, classes, steps=self.steps, fill=FILL)
        drop = evaluate.average_drop_increase(self.predict, images, maps, classes)
        road = evaluate.road_scores(self.predict, images, maps, classes, percentages=ROAD_PERCENTAGES)
        scores = {"average_drop": drop.drop, "increase": drop.increase, "road": road.score}
        scores |= {"deletion": areas.deletion, "insertion": areas.insertion}
        calls = areas.calls + drop.calls + road.calls
        if self.mapper is not None:
            scores["stability"] = self._stability(self.mapper, images, maps, classes)
            calls += 2 * len(images)
        return scores, calls

    def _stability(self, mapper: Any, images: np.ndarray, maps: np.ndarray, classes: np.ndarray) -> np.ndarray:
        def explain_changed(changed: np.ndarray) -> np.ndarray:
            return unit_maps(mapper(changed, classes)[0], self.size)

        return evaluate.input_stability(explain_changed, images, self.rng, maps=maps)


# ---- explanations as arrays


def unit_maps(raw: dict[int, np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """(n, blocks, h, w) float32: the [0, 1] views of raw maps, all resized to `size`, blocks ascending."""
    views = [[map_to_image(m, size, size) for m in unit_view(raw[b])] for b in sorted(raw)]
    return np.array(views, np.float32).transpose(1, 0, 2, 3)


def _at_input_size(explanation: Explanation) -> np.ndarray:
    """(n, blocks, h, w) float32 maps at the model's input size."""
    if isinstance(explanation, BlockHeatmaps):
        return unit_maps(explanation.raw, explanation.images.shape[1:3])
    return np.array([[explanation.signed_map(i)] for i in range(len(explanation))], np.float32)


def _rows(explanation: Explanation) -> pd.DataFrame:
    """One row per image and block, image by image, without scores."""
    count = len(explanation)
    if isinstance(explanation, BlockHeatmaps):
        order = np.arange(count * len(explanation.blocks)).reshape(len(explanation.blocks), -1).T.ravel()
        return explanation.to_dataframe().iloc[order].reset_index(drop=True)
    maps = _at_input_size(explanation)[:, 0]
    frame = {
        "file": explanation.files,
        "block": "superpixels",
        "class": [explanation.explained(i) for i in range(count)],
        "probability": explanation.probabilities[np.arange(count), explanation.classes],
        "raw_max": maps.max((1, 2)),
        "raw_mean": maps.mean((1, 2)),
        "is_zero": maps.max((1, 2)) <= 0,
    }
    return pd.DataFrame(frame)


def _against_masks(explanation: Explanation, masks: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
    """Score -> (n, blocks); NaN where an image has no mask, or (except for mask_area) an empty one."""
    blocks = len(explanation.blocks) if isinstance(explanation, BlockHeatmaps) else 1
    names = ("mass_inside", "pointing_game", "average_precision", "best_iou", "iou_at_0.5", "mask_area")
    scores = np.full((len(names), len(explanation), blocks), np.nan)
    for i, values in enumerate(masks):
        if values is None:
            continue
        mask = np.asarray(values) != 0
        if mask.ndim != 2:
            raise InputError(f"A mask must be (height, width). Received: shape {mask.shape}.")
        localisation = evaluate.localise(*_on_mask(explanation, i, mask))
        scores[:, i] = np.stack([*localisation, np.full(blocks, mask.mean())])
    return dict(zip(names, scores, strict=True))


def _on_mask(explanation: Explanation, image: int, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(blocks, h, w) maps of one image in its mask's geometry, and the mask, reduced where it is very large."""
    size = explanation.images.shape[1:3]
    resize = "stretch" if mask.shape == size else explanation.resize
    if mask.size > MASK_PIXELS:
        scale = (MASK_PIXELS / mask.size) ** 0.5
        mask = resize_mask(mask, (max(1, int(mask.shape[0] * scale)), max(1, int(mask.shape[1] * scale))))
    if isinstance(explanation, Superpixels):
        return map_to_image(explanation.signed_map(image), mask.shape, size, resize, nearest=True)[None], mask
    views = (unit_view(explanation.raw[b][image : image + 1])[0] for b in explanation.blocks)
    return np.stack([map_to_image(v, mask.shape, size, resize) for v in views]), mask


# ---- effort and summary


def measure_costs(classifier: Classifier, images: np.ndarray) -> tuple[float, float]:
    """Seconds for one network call (in a batch of 64) and for filling half an image, measured on this machine."""
    batch = np.resize(images, (64, *images.shape[1:])).astype(np.float32)
    predict = Probabilities(classifier)
    predict(batch)  # the first call compiles
    start = time.perf_counter()
    predict(batch)
    predicted = time.perf_counter()
    known = np.zeros((1, *images.shape[1:3]), bool)
    known[:, : known.shape[1] // 2] = True
    fill_linear(batch[:1], known)
    return (predicted - start) / len(batch), time.perf_counter() - predicted


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
    """Images and steps that take about `seconds`: first fewer images, down to MIN_IMAGES, then fewer steps than STEPS.

    `total`: the number of images available. `costs`: from `measure_costs`. `stable`: whether stability is scored.
    `images` and `steps` are used as given, if they are; else at most MAX_IMAGES images are chosen, since they are held
    in memory. Raises InputError for values below 1.
    """
    for name, value in (("images", images), ("steps", steps)):
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1. Received: {name}={value}.")
    fills = 2 * len(ROAD_PERCENTAGES) * blocks

    def calls_and_seconds(count: int, steps: int) -> tuple[int, float]:
        calls = 2 + 2 * blocks * (steps - 1) + (1 + blocks) + fills
        work = calls + _MAP_COST * stable
        return count * (calls + 2 * stable), count * (work * costs[0] + fills * costs[1])

    affordable = int(seconds / max(calls_and_seconds(1, steps or STEPS)[1], 1e-9))
    bounds = min(total, MIN_IMAGES), min(total, MAX_IMAGES)
    count = min(images, total) if images else int(np.clip(affordable, *bounds))
    candidates = [steps] if steps else range(STEPS, 1, -1)
    chosen = next((s for s in candidates if calls_and_seconds(count, s)[1] <= seconds), candidates[-1])
    return Effort(count, chosen, *calls_and_seconds(count, chosen))


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """One row per block and score: mean, 95 % interval, and the number of images with that score.

    Intervals resample the groups in the column `group` of the table from `score_maps`, or images if it has none.
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
    """Scores x blocks as text, 'mean [low, high]', with an arrow that shows which values are better."""

    def cell(mean: float, low: float, high: float) -> str:
        if not np.isfinite(mean):
            return ""
        value = f"{mean:.2f}" if abs(mean) >= 0.1 or mean == 0 else f"{mean:.3f}"
        # Without the leading 0, so that five blocks fit on a line.
        bounds = [f"{round(b, 2) + 0.0:.2f}".replace("0.", ".", 1) for b in (low, high)]
        return f"{value} [{', '.join(bounds)}]" if np.isfinite(low) else value

    arrows = {"high": "↑", "low": "↓", "": ""}
    shown = summary.assign(
        text=[cell(*row) for row in summary[["mean", "low", "high"]].to_numpy()],
        block=[f"Block {b}" if isinstance(b, int | np.integer) else b for b in summary["block"]],
        score=[name + arrows[SCORES[name]] for name in summary["score"]],
    )
    return shown.pivot(index="score", columns="block", values="text").loc[shown["score"].unique()].rename_axis("score")
