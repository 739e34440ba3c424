"""The freeze advisor: a probe's heatmaps at all five blocks, measured on validation images, decide `freeze_through`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from xaitune import _files
from xaitune._progress import Progress
from xaitune.advise.advice import FreezeAdvice, load_advice
from xaitune.advise.decision import decide
from xaitune.advise.probe import (
    BLOCK_NUMBERS,
    Probe,
    choose_images,
    image_limits,
    masks_digest,
    measure_blocks,
    unit_maps,
)
from xaitune.config.schema import TrainConfig, replace_fields
from xaitune.data.dataset import ImageData
from xaitune.errors import ConfigError
from xaitune.explain.gradcam import BlockMapper
from xaitune.plots import figures, overlays, pictures
from xaitune.training.features import FeatureCache
from xaitune.training.folder import choose_folder, locked, start_folder

METHODS = ("heatmap",)


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
    notes: Callable[[str], None] | None = None,
    **options: Any,
) -> FreezeAdvice:
    """Recommend `freeze_through` from what the blocks see, before any fine-tuning.

    A probe (all of VGG16 frozen, a head trained for each of `head_seeds` seeds) explains the true class of validation
    images with Grad-CAM at Block 1 to 5. With masks a block's score is its localisation: the average precision of
    the map for the mask minus that of the same map put elsewhere at random. Without masks it is the mean rank over
    faithfulness (insertion minus deletion area, minus the same of the map put elsewhere), agreement with the other
    blocks' maps, concentration (Gini) and stability. The advice is the deepest block whose score lies within one
    standard error of the best, since deeper is cheaper to train; its confidence is the share of resampled groups and
    head seeds that choose the same block. At most `max_calls` network calls are made for the measures (an image once
    forward or backward is one call). No test image is looked at, and training images only train the probe's head.

    `model`: explain this model instead of a probe. `cache_dir` (default `runs_dir`/cache) keeps frozen features, up to
    `cache_gb`. `options` are fields of TrainConfig. The folder `runs_dir`/advice gets advice.json, evidence.csv and
    pictures. Raises InputError and RunError.
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
            notes(f"{folder} is there already; it is not made again.")
        return load_advice(folder)
    with locked(folder):
        start_folder(folder, "advice", {"identity": identity, "train": dataclasses.asdict(config)}, overwrite=overwrite)
        scores, groups, calls, measure = measure_blocks(data, probe, budget, progress)
        advice = decide(scores, groups, calls, measure, data, probe, method)
        write_advice(advice, folder, data, probe)
    return load_advice(folder)


def _identity(
    data: ImageData, config: TrainConfig, probe: "Probe", method: str, max_calls: int | None
) -> dict[str, Any]:
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
    _files.write_csv(folder / "evidence.csv", advice.evidence.reset_index())
    figures.save(advice.plot(), folder / "evidence.png")
    rows = choose_images(data, data.indices("validation"), min(6, len(data.indices("validation"))))
    if data.masks is not None:
        shown = [i for i in data.indices("validation") if (m := data.mask(int(i))) is not None and m.any()]
        rows = choose_images(data, np.array(shown), 6) if shown else rows
    images = data.load(rows)
    mapper = BlockMapper(probe.classifier.model, BLOCK_NUMBERS)
    maps = unit_maps(mapper(images.astype(np.float32), data.labels[rows])[0], data.image_size)
    strips = [
        overlays.strip([image, *(overlays.overlay(image, m) for m in row)], height=160)
        for image, row in zip(images, maps, strict=True)
    ]
    labels = [f"{Path(data.files[i]).stem} ({data.class_names[data.labels[i]]})" for i in rows]
    titles = ["image", *(f"Block {b}" for b in BLOCK_NUMBERS)]
    figures.save(pictures.contact_sheet(strips, labels, titles=titles), folder / "heatmaps.png")
    keep = {f.name: getattr(advice, f.name) for f in dataclasses.fields(advice) if f.name not in ("evidence", "path")}
    _files.write_json(folder / "advice.json", keep)
