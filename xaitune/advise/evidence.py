"""The evidence: how well the probe's heatmaps of validation images score at each of the five blocks."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from xaitune import evaluate
from xaitune._progress import Progress
from xaitune.advise.probe import BLOCK_NUMBERS, MAP_CALLS, STEPS, Probe
from xaitune.data.dataset import ImageData
from xaitune.data.resize import map_to_image
from xaitune.data.sample import choose_images
from xaitune.evaluate.table import unit_maps
from xaitune.explain.gradcam import BlockMapper
from xaitune.explain.heatmaps import unit_view
from xaitune.explain.probabilities import Probabilities

MEASURES = ("faithfulness", "agreement", "concentration", "stability")
WEIGHTS = np.array([3.0, 1.0, 1.0, 1.0]) / 6  # faithfulness counts as much as the other three together
MIN_MASK_GROUPS = 5  # with fewer groups that have a mask, the masks are not used


@dataclass(frozen=True)
class Evidence:
    """The measured scores of the blocks' heatmaps.

    `scores`: measure -> (seeds, images, blocks); 'score' is the one that decides, 'zero' is 1 where a map is empty.
    `groups`: (images,) the group of each image. `calls`: network calls made. `measure`: what 'score' is, 'localisation'
    or 'mean rank'.
    """

    scores: dict[str, np.ndarray]
    groups: np.ndarray
    calls: int
    measure: str


class _StepReport:
    """Reports what is being done within one step of `progress`."""

    def __init__(self, progress: Progress | None, step: int, steps: int) -> None:
        self.progress, self.step, self.steps = progress, step, steps

    def __call__(self, what: str) -> None:
        if self.progress:
            self.progress(self.step, self.steps, what)


def measure_blocks(data: ImageData, probe: Probe, budget: tuple[int, int], progress: Progress | None) -> Evidence:
    """Measure the heatmaps of validation images at all blocks, with each of the probe's heads.

    With masks in at least MIN_MASK_GROUPS groups only images with a mask are measured, and localisation decides.
    `budget`: the result of `image_limits`.
    """
    validation = data.indices("validation")
    masked = masked_images(data, validation)
    by_masks = len(np.unique(data.groups[masked])) >= MIN_MASK_GROUPS if len(masked) else False
    unmasked_limit, masked_limit = budget
    rows = choose_images(data, masked, masked_limit) if by_masks else choose_images(data, validation, unmasked_limit)
    images, classes = data.load(rows).astype(np.float32), probe.true_classes(rows)
    mapper = BlockMapper(probe.classifier.model, BLOCK_NUMBERS)
    scores_by_seed: list[dict[str, np.ndarray]] = []
    calls = 0
    for step, seed in enumerate(probe.seeds):
        probe.use(seed, _StepReport(progress, step, len(probe.seeds)))
        raw, _ = mapper(images, classes)
        maps = unit_maps(raw, data.image_size)  # (n, 5, h, w)
        scores = {
            "zero": (maps.max(axis=(2, 3)) <= 0).astype(float),
            "concentration": evaluate.map_concentration(maps).gini,
            "agreement": _agreement(maps),
        }
        rng = np.random.default_rng([seed, 11])
        stability = evaluate.input_stability(
            lambda x: unit_maps(mapper(x, classes)[0], data.image_size), images, rng, maps=maps
        )
        scores["stability"] = np.nan_to_num(stability)
        calls += MAP_CALLS * len(rows)
        rng = np.random.default_rng([seed, 7])
        if by_masks:
            scores |= localisation_scores(raw, data, rows, rng)
        else:
            predict = Probabilities(probe.classifier)
            faithfulness, used = _faithfulness(predict, images, raw, classes, rng)
            scores |= faithfulness
            calls += used
        scores_by_seed.append(scores)
        if progress:
            progress(step + 1, len(probe.seeds), f"heatmaps of {len(rows)} validation images, head seed {seed}")
    stacked = {key: np.stack([scores[key] for scores in scores_by_seed]) for key in scores_by_seed[0]}
    stacked["score"] = stacked["localisation"] if by_masks else _mean_rank(stacked)
    return Evidence(stacked, data.groups[rows], calls, "localisation" if by_masks else "mean rank")


def masked_images(data: ImageData, rows: np.ndarray) -> np.ndarray:
    """The rows whose images have a mask that is not empty."""
    if data.masks is None:
        return rows[:0]
    return np.array([i for i in rows if (mask := data.mask(int(i))) is not None and mask.any()], rows.dtype)


def _agreement(maps: np.ndarray) -> np.ndarray:
    """(n, blocks): mean Spearman correlation of a block's map with those of the other blocks; 0 if a map is constant."""
    blocks = range(maps.shape[1])
    pairs = np.zeros((len(maps), len(blocks), len(blocks)))
    for a in blocks:
        for b in range(a):
            pairs[:, a, b] = pairs[:, b, a] = np.nan_to_num(evaluate.map_agreement(maps[:, a], maps[:, b]).spearman)
    return pairs.sum(axis=2) / (len(blocks) - 1)


def localisation_scores(
    raw: dict[int, np.ndarray], data: ImageData, rows: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """`localisation`: the average precision for the mask, minus that of the same map moved to a random place.

    `raw`: block -> maps of the images `rows`, which have masks. Each score is (n, blocks), at the file's own size; also
    `average_precision` itself and `mass_inside`.
    """
    views = {b: unit_view(raw[b]) for b in sorted(raw)}
    moved = {b: evaluate.random_like(view, rng) for b, view in views.items()}
    scores = {key: np.zeros((len(rows), len(views))) for key in ("localisation", "average_precision", "mass_inside")}
    for i, row in enumerate(rows):
        mask = data.mask(int(row))
        assert mask is not None  # only images with a mask were chosen
        geometry = (mask.shape, data.image_size, data.config.resize)
        maps = np.stack([map_to_image(view[i], *geometry) for view in views.values()])
        if data.config.resize == "pad":  # moved before the padding is cropped, relevance would be lost in it
            nulls = evaluate.random_like(maps, rng)
        else:
            nulls = np.stack([map_to_image(view[i], *geometry) for view in moved.values()])
        masks = np.broadcast_to(mask, maps.shape)
        scores["average_precision"][i] = evaluate.average_precision(maps, masks)
        scores["mass_inside"][i] = evaluate.mass_inside(maps, masks)
        scores["localisation"][i] = scores["average_precision"][i] - evaluate.average_precision(nulls, masks)
    return scores


def _faithfulness(
    predict: Any,
    images: np.ndarray,
    raw: dict[int, np.ndarray],
    classes: np.ndarray,
    rng: np.random.Generator,
) -> tuple[dict[str, np.ndarray], int]:
    """Scores and network calls: insertion minus deletion area, minus that of the same map moved to a random place."""
    size = images.shape[1:3]
    moved = {b: evaluate.random_like(unit_view(m), rng) for b, m in raw.items()}
    maps = np.concatenate([unit_maps(raw, size), unit_maps(moved, size)], axis=1)  # (n, 10, h, w)
    areas = evaluate.deletion_insertion(predict, images, maps, classes, steps=STEPS)
    insertion, deletion = np.asarray(areas.insertion), np.asarray(areas.deletion)
    gain = insertion - deletion
    blocks = len(raw)
    scores = {
        "faithfulness": gain[:, :blocks] - gain[:, blocks:],
        "insertion": insertion[:, :blocks],
        "deletion": deletion[:, :blocks],
    }
    return scores, int(areas.calls)


def _mean_rank(scores: dict[str, np.ndarray]) -> np.ndarray:
    """(seeds, images, blocks) in 0..1: the weighted mean over MEASURES of a block's rank among the five."""
    ranks = np.stack([(rankdata(scores[m], axis=-1) - 1) / (len(BLOCK_NUMBERS) - 1) for m in MEASURES])
    return np.tensordot(WEIGHTS, ranks, axes=1)
