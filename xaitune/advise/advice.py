"""The freeze advisor: a probe's heatmaps at all five blocks, measured on validation images, decide freeze_through."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

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
from xaitune.errors import ConfigError, RunError
from xaitune.explain.gradcam import block_mapper
from xaitune.plots import charts as plots
from xaitune.plots import figures, overlays
from xaitune.results import FreezeAdvice
from xaitune.training import folder as runs
from xaitune.training.features import FeatureCache, Progress

METHODS = ("heatmap",)
DRAWS = 2000


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
    folder, note = runs.choose_folder(Path(runs_dir), "advice", name, identity, overwrite=overwrite)
    if note and notes:
        notes(note)
    if (folder / "advice.json").is_file() and not overwrite:
        if notes:
            notes(f"{folder} is there already; it is not made again.")
        return load_advice(folder)
    with runs.locked(folder):
        runs.start_folder(folder, {"identity": identity, "train": dataclasses.asdict(config)}, overwrite=overwrite)
        scores, groups, calls, measure = measure_blocks(data, probe, budget, progress)
        advice = _decide(scores, groups, calls, measure, data, probe, method)
        _save(advice, folder, data, probe)
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


def choose_block(means: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """The deepest block (1..5) whose mean is within its standard error of the best, for each row of `means` (..., 5)."""
    good = means >= means.max(axis=-1, keepdims=True) - errors
    return means.shape[-1] - np.argmax(good[..., ::-1], axis=-1)


def _decide(
    scores: dict[str, np.ndarray],
    groups: np.ndarray,
    calls: int,
    measure: str,
    data: ImageData,
    probe: Probe,
    method: str,
) -> FreezeAdvice:
    names, number = np.unique(groups, return_inverse=True)
    per_seed = np.zeros((len(probe.seeds), len(names), len(BLOCK_NUMBERS)))
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
    table = {"score": mean, "low": low, "high": high, "behind_best": mean.max() - mean, "standard_error": errors}
    others = {k: np.nanmean(v, axis=(0, 1)) for k, v in scores.items() if k not in ("score", "zero", measure)}
    table |= others | {"empty_maps": scores["zero"].mean(axis=(0, 1))}
    evidence = pd.DataFrame(table, index=pd.Index(BLOCK_NUMBERS, name="block"))
    advice = FreezeAdvice(
        freeze_through=chosen,
        confidence=share[chosen],
        evidence=evidence,
        votes=share,
        reasons="",
        method=method,
        measure=measure,
        fingerprint=data.fingerprint,
        weights=probe.weights,
        image_size=data.image_size,
        images=len(groups),
        groups=len(names),
        model_calls=calls,
        created=runs.now(),
    )
    return dataclasses.replace(advice, reasons=_reasons(advice, len(probe.seeds)))


def _reasons(advice: FreezeAdvice, seeds: int) -> str:
    """One paragraph in plain language, from the figures alone."""
    e, k = advice.evidence, advice.freeze_through
    best = int(e["score"].idxmax())
    what = {
        "localisation": "how well each block's heatmap finds the marked defects, beyond the same map put elsewhere",
        "mean rank": "how each block's heatmap ranks in faithfulness (weighted most), agreement, concentration and stability",
    }[advice.measure]
    text = (
        f"Measured on {advice.images} validation images of {advice.groups} groups with {seeds} probe heads: {what}. "
        f"Block {best} scores best ({e.loc[best, 'score']:.3f} [{e.loc[best, 'low']:.3f}, {e.loc[best, 'high']:.3f}]). "
    )
    if k != best:
        text += (
            f"Block {k} ({e.loc[k, 'score']:.3f}) lies within one standard error of it, "
            "and freezing deeper is cheaper to train. "
        )
    if k < 5:
        text += (
            f"From Block {k + 1} on the maps lose what the decision needs (Block {k + 1}: {e.loc[k + 1, 'score']:.3f}), "
            f"so those blocks should be trained on your images. "
        )
    else:
        text += "Even the last block's maps hold up, so training the head alone is worth trying first. "
    other = ", ".join(f"{m} {e.loc[k, m]:.2f}" for m in ("agreement", "concentration", "stability"))
    text += f"Second opinions on Block {k}: {other}. "
    empty = e["empty_maps"]
    if empty.max() > 0.05:
        text += f"Block {int(empty.idxmax())} gave empty maps for {empty.max():.0%} of the images. "
    sure = advice.confidence
    text += f"{sure:.0%} of the resampled groups and head seeds choose the same block"
    if sure < 0.5:
        second = next(b for b in advice.ranking if b != k)
        text += f": this is a weak recommendation; Block {second} is the next candidate ({advice.votes[second]:.0%})"
    return text + "."


def _save(advice: FreezeAdvice, folder: Path, data: ImageData, probe: Probe) -> None:
    runs.write_csv(folder / "evidence.csv", advice.evidence.reset_index())
    figures.save(advice.plot(), folder / "evidence.png")
    rows = choose_images(data, data.indices("validation"), min(6, len(data.indices("validation"))))
    if data.masks is not None:
        shown = [i for i in data.indices("validation") if (m := data.mask(int(i))) is not None and m.any()]
        rows = choose_images(data, np.array(shown), 6) if shown else rows
    images = data.load(rows)
    mapper = block_mapper(probe.subject.model, BLOCK_NUMBERS)
    maps = unit_maps(mapper(images.astype(np.float32), data.labels[rows])[0], data.image_size)
    strips = [
        overlays.strip([image, *(overlays.overlay(image, m) for m in row)], height=160)
        for image, row in zip(images, maps, strict=True)
    ]
    labels = [f"{Path(data.files[i]).stem} ({data.class_names[data.labels[i]]})" for i in rows]
    titles = ["image", *(f"Block {b}" for b in BLOCK_NUMBERS)]
    figures.save(plots.contact_sheet(strips, labels, titles=titles), folder / "heatmaps.png")
    keep = {f.name: getattr(advice, f.name) for f in dataclasses.fields(advice) if f.name not in ("evidence", "path")}
    runs.write_json(folder / "advice.json", keep)


def load_advice(path: str | Path) -> FreezeAdvice:
    """Advice from its folder. Raises RunError where it is missing or damaged."""
    folder = Path(path)
    values = runs.read_json(folder / "advice.json")
    try:
        values["votes"] = {int(k): v for k, v in values["votes"].items()}
        values["image_size"] = tuple(values["image_size"])
        evidence = pd.read_csv(folder / "evidence.csv", index_col="block")
        return FreezeAdvice(**values, evidence=evidence, path=folder)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise RunError(
            f"{folder} is damaged ({error}). Make the advice again with 'xaitune advise --overwrite'."
        ) from None


def find_advice(runs_dir: str | Path, fingerprint: str | None = None, weights: str | None = None) -> Path | None:
    """The newest advice under `runs_dir`; with a fingerprint or weights (their digest), on those alone."""
    found = []
    for file in Path(runs_dir).glob("*/advice.json"):
        values = runs.read_json(file)
        if fingerprint in (None, values["fingerprint"]) and weights in (None, values["weights"]):
            found.append((values["created"], file.parent))
    return max(found)[1] if found else None
