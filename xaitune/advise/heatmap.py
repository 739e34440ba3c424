"""The advice from heatmaps alone: from the evidence to the number of blocks to freeze, with its reasons in words."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune import _machine, _names
from xaitune._progress import Progress
from xaitune.advise.advice import FreezeAdvice
from xaitune.advise.evidence import Evidence, masked_images, measure_blocks
from xaitune.advise.probe import BLOCK_NUMBERS, Probe, image_limits, masks_digest
from xaitune.config.settings import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.data.sample import choose_images
from xaitune.evaluate.table import unit_maps
from xaitune.explain.gradcam import BlockMapper
from xaitune.plots import figures, overlays, pictures
from xaitune.training.features import FeatureCache

DRAWS = 2000
SHOWN_IMAGES = 6  # in heatmaps.png


class HeatmapEvaluation:
    """The evidence of heatmaps alone, of a probe or of a given model, and the advice that follows from it.

    Raises ConfigError where `max_calls` is too few, DataError for a model that does not fit the data.
    """

    def __init__(
        self,
        data: ImageData,
        config: TrainConfig,
        model: Any,
        head_seeds: int,
        max_calls: int | None,
        cache: FeatureCache,
    ) -> None:
        self.data, self.config, self.max_calls = data, config, max_calls
        self.probe = Probe(data, config, model, head_seeds, cache)
        self.limits = image_limits(data, self.probe.channels, len(self.probe.seeds), max_calls)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the advice: equal identities give the same advice."""
        return {
            "fingerprint": self.data.fingerprint,
            "masks": masks_digest(self.data),
            "seed": self.config.seed,
            "weights": self.probe.weights,
            "model": self.probe.explained,
            "method": "heatmap",
            "head": self.config.head,
            "head_epochs": self.probe.head_epochs,
            "head_seeds": len(self.probe.seeds),
            "max_calls": self.max_calls,
            **{field: getattr(self.config, field) for field in ("batch_size", "loss", "class_weight")},
        }

    def advise(self, progress: Progress | None = None) -> FreezeAdvice:
        """The advice, with its reasons in words."""
        return decide(measure_blocks(self.data, self.probe, self.limits, progress), self.data, self.probe)

    def draw(self, folder: Path) -> None:
        """Write heatmaps.png: the probe's maps of a few validation images at all blocks."""
        data, validation = self.data, self.data.indices("validation")
        masked = masked_images(data, validation)
        rows = choose_images(data, masked if len(masked) else validation, SHOWN_IMAGES)
        images = data.load(rows)
        mapper = BlockMapper(self.probe.classifier.model, BLOCK_NUMBERS)
        maps = unit_maps(mapper(images.astype(np.float32), self.probe.true_classes(rows))[0], data.image_size)
        strips = [
            overlays.strip([image, *(overlays.overlay(image, heat) for heat in block_maps)], height=160)
            for image, block_maps in zip(images, maps, strict=True)
        ]
        labels = [f"{Path(data.files[i]).stem} ({data.class_names[data.labels[i]]})" for i in rows]
        titles = ["image", *(f"Block {b}" for b in BLOCK_NUMBERS)]
        figures.save(pictures.contact_sheet(strips, labels, titles=titles), folder / "heatmaps.png")


def choose_block(means: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """The deepest block (1..5) whose mean is within its standard error of the best, for each row of `means` (..., 5).

    Examples:
        >>> int(choose_block(np.array([0.1, 0.5, 0.6, 0.59, 0.2]), errors=np.full(5, 0.02)))
        4
    """
    good = means >= means.max(axis=-1, keepdims=True) - errors
    return means.shape[-1] - np.argmax(good[..., ::-1], axis=-1)


def decide(evidence: Evidence, data: ImageData, probe: Probe) -> FreezeAdvice:
    """The advice that follows from the evidence: `choose_block` on the means, with votes over resampled groups."""
    scores = evidence.scores
    names, number = np.unique(evidence.groups, return_inverse=True)
    per_seed = np.zeros((len(probe.seeds), len(names), len(BLOCK_NUMBERS)))  # sums over the images of a group
    for group in range(len(names)):
        per_seed[:, group] = scores["score"][:, number == group].sum(axis=1)
    size = np.bincount(number)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS)  # (draws, groups)
    drawn = np.einsum("dg,sgb->dsb", weights, per_seed) / (weights @ size)[:, None, None]
    mean = scores["score"].mean(axis=(0, 1))
    seed_mean = drawn.mean(axis=1)  # (draws, blocks)
    gap = seed_mean[:, [int(mean.argmax())]] - seed_mean
    errors = gap.std(axis=0)
    chosen = int(choose_block(mean, errors))
    votes = choose_block(drawn, errors).ravel()
    share = {b: float((votes == b).mean()) for b in BLOCK_NUMBERS}
    low, high = np.percentile(seed_mean, [2.5, 97.5], axis=0)
    columns = {"score": mean, "low": low, "high": high, "behind_best": mean.max() - mean, "standard_error": errors}
    further = (name for name in scores if name not in ("score", "zero", evidence.measure))
    columns |= {name: np.nanmean(scores[name], axis=(0, 1)) for name in further}
    columns |= {"empty_maps": scores["zero"].mean(axis=(0, 1))}
    advice = FreezeAdvice(
        freeze_through=chosen,
        confidence=share[chosen],
        evidence=pd.DataFrame(columns, index=pd.Index(BLOCK_NUMBERS, name="block")),
        votes=share,
        reasons="",
        method="heatmap",
        measure=evidence.measure,
        fingerprint=data.fingerprint,
        weights=probe.weights,
        image_size=data.image_size,
        images=len(evidence.groups),
        groups=len(names),
        model_calls=evidence.calls,
        created=_machine.now(),
        task=probe.task,
    )
    return dataclasses.replace(advice, reasons=_reasons(advice, len(probe.seeds)))


def _reasons(advice: FreezeAdvice, seeds: int) -> str:
    """One paragraph in plain language, from the figures alone."""
    table, chosen = advice.evidence, advice.freeze_through
    best = int(table["score"].idxmax())
    score = {
        "localisation": "how much better each block's heatmap finds the marked defects than the same heatmap moved to "
        "a random place",
        "mean rank": "each block's mean rank in faithfulness (which counts most), agreement, concentration and stability",
    }[advice.measure]
    text = (
        f"The score is {score}, measured on {advice.images} validation images from {advice.groups} groups with "
        f"{_names.plural(seeds, 'probe head')}. Block {best} scores best ({table.loc[best, 'score']:.3f} "
        f"[{table.loc[best, 'low']:.3f}, {table.loc[best, 'high']:.3f}]). "
    )
    if chosen != best:
        text += (
            f"Block {chosen} ({table.loc[chosen, 'score']:.3f}) is within one standard error of it, "
            "and freezing deeper makes training cheaper. "
        )
    if chosen < 5:
        text += (
            f"Beyond Block {chosen} the heatmaps may lose what the classification needs "
            f"(Block {chosen + 1}: {table.loc[chosen + 1, 'score']:.3f}), "
            "so the blocks after it should be trained on your images. "
        )
    else:
        text += "Even the heatmaps of the last block hold up, so training the head alone is worth trying first. "
    measures = ", ".join(
        f"{name} {table.loc[chosen, name]:.2f}" for name in ("agreement", "concentration", "stability")
    )
    text += f"Other measures at Block {chosen}: {measures}. "
    empty = table["empty_maps"]
    if empty.max() > 0.05:
        text += f"Block {int(empty.idxmax())} gave empty maps for {empty.max():.0%} of the images. "
    text += f"{advice.confidence:.0%} of the resamples (over groups and head seeds) choose the same block"
    if advice.confidence < 0.5:
        second = next(b for b in advice.ranking if b != chosen)
        text += f", so this is a weak recommendation; the next candidate is Block {second} ({advice.votes[second]:.0%})"
    return text + "."
