"""The freeze advisor: recommends `freeze_through` from a probe's heatmaps of validation images at all five blocks."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from xaitune import _files
from xaitune._progress import Notes, Progress
from xaitune.advise.advice import FreezeAdvice, load_advice
from xaitune.advise.decision import decide
from xaitune.advise.evidence import choose_images, masked_images, measure_blocks
from xaitune.advise.probe import BLOCK_NUMBERS, Probe, image_limits, masks_digest
from xaitune.config.settings import TrainConfig, replace_fields
from xaitune.data.dataset import ImageData
from xaitune.errors import ConfigError
from xaitune.evaluate.table import unit_maps
from xaitune.explain.gradcam import BlockMapper
from xaitune.plots import figures, overlays, pictures
from xaitune.training.features import FeatureCache
from xaitune.training.folder import choose_folder, locked, start_folder

METHODS = ("heatmap",)
SHOWN_IMAGES = 6  # in heatmaps.png


def advise_freeze(
    data: ImageData,
    config: TrainConfig | None = None,
    *,
    model: Any = None,
    method: str = "heatmap",
    name: str | None = None,
    runs_dir: str | Path = "runs",
    overwrite: bool = False,
    head_seeds: int = 3,
    max_calls: int | None = None,
    cache_dir: str | Path | None = None,
    cache_gb: float = 20.0,
    progress: Progress | None = None,
    notes: Notes | None = None,
    **options: Any,
) -> FreezeAdvice:
    """Recommend `freeze_through` from what the blocks see, before any fine-tuning.

    A probe (VGG16 fully frozen, with a head trained for each of `head_seeds` seeds) explains the true class of validation
    images with Grad-CAM at Block 1 to 5. With masks a block's score is its localisation: the average precision of the
    map for the mask, minus that of the same map moved to a random place. Without masks it is the mean rank over
    faithfulness (insertion minus deletion area, minus the same for the moved map), agreement with the other blocks'
    maps, concentration (Gini) and stability. The advice is the deepest block whose score is within one standard error of
    the best, since deeper freezing is cheaper to train. Its confidence is the share of resamples, over groups and head
    seeds, that choose the same block. The measures take at most `max_calls` network calls (one image, once forward or
    backward, is one call). Test images are never used, and training images only train the probe's head.

    `model`: explain this model instead of a probe. `cache_dir` (default `runs_dir`/cache) stores frozen features, up to
    `cache_gb`. `options` are fields of TrainConfig. The folder `runs_dir`/advice receives advice.json, evidence.csv and
    pictures. Raises InputError and RunError.

    Examples:
        >>> data = ImageData.from_folder("images", masks="masks", image_size=(96, 96))  # doctest: +SKIP
        >>> advise_freeze(data, weights="imagenet", epochs=3).freeze_through  # doctest: +SKIP
        3
    """
    if method not in METHODS:
        raise ConfigError(f"method must be one of {', '.join(METHODS)}. Received: {method!r}.")
    if head_seeds < 1:
        raise ConfigError(f"head_seeds must be at least 1. Received: {head_seeds}.")
    config = replace_fields(config or TrainConfig(), options)
    data.require_trainable()
    cache = FeatureCache(Path(cache_dir or Path(runs_dir) / "cache"), cache_gb)
    probe = Probe(data, config, model, head_seeds, cache)
    budget = image_limits(data, probe.channels, len(probe.seeds), max_calls)
    identity = _identity(data, config, probe, method, max_calls)
    folder, note = choose_folder(Path(runs_dir), "advice", name, identity, overwrite=overwrite)
    if note and notes:
        notes(note)
    if (folder / "advice.json").is_file() and not overwrite:
        if notes:
            notes(f"{folder} already exists, so the advice is not made again.")
        return load_advice(folder)
    with locked(folder):
        start_folder(folder, "advice", {"identity": identity, "train": dataclasses.asdict(config)}, overwrite=overwrite)
        advice = decide(measure_blocks(data, probe, budget, progress), data, probe, method)
        write_advice(advice, folder, data, probe)
    return load_advice(folder)


def _identity(data: ImageData, config: TrainConfig, probe: Probe, method: str, max_calls: int | None) -> dict[str, Any]:
    """Everything that decides the advice: equal identities give the same advice."""
    return {
        "fingerprint": data.fingerprint,
        "masks": masks_digest(data),
        "seed": config.seed,
        "weights": probe.weights,
        "model": probe.explained,
        "method": method,
        "head": config.head,
        "head_epochs": probe.head_epochs,
        "head_seeds": len(probe.seeds),
        "max_calls": max_calls,
        **{field: getattr(config, field) for field in ("batch_size", "loss", "class_weight")},
    }


def write_advice(advice: FreezeAdvice, folder: Path, data: ImageData, probe: Probe) -> None:
    """Write the advice's folder: evidence.csv, evidence.png, heatmaps.png of a few images, and last advice.json."""
    _files.write_csv(folder / "evidence.csv", advice.evidence.reset_index())
    figures.save(advice.plot(), folder / "evidence.png")
    validation = data.indices("validation")
    masked = masked_images(data, validation)
    rows = choose_images(data, masked if len(masked) else validation, SHOWN_IMAGES)
    images = data.load(rows)
    mapper = BlockMapper(probe.classifier.model, BLOCK_NUMBERS)
    maps = unit_maps(mapper(images.astype(np.float32), data.labels[rows])[0], data.image_size)
    strips = [
        overlays.strip([image, *(overlays.overlay(image, heat) for heat in block_maps)], height=160)
        for image, block_maps in zip(images, maps, strict=True)
    ]
    labels = [f"{Path(data.files[i]).stem} ({data.class_names[data.labels[i]]})" for i in rows]
    titles = ["image", *(f"Block {b}" for b in BLOCK_NUMBERS)]
    figures.save(pictures.contact_sheet(strips, labels, titles=titles), folder / "heatmaps.png")
    names = [field.name for field in dataclasses.fields(advice) if field.name not in ("evidence", "path")]
    _files.write_json(folder / "advice.json", {name: getattr(advice, name) for name in names})
