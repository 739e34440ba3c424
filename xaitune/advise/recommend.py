"""The freeze advisor: recommends `freeze_through`, or training nothing, before any whole fine-tuning."""

import dataclasses
from pathlib import Path
from typing import Any

from xaitune import _files
from xaitune._progress import Notes, Progress, shown_progress
from xaitune.advise.advice import FreezeAdvice, load_advice
from xaitune.advise.decision import COST_WEIGHT
from xaitune.advise.evaluation import Evaluation
from xaitune.advise.heatmap import HeatmapEvaluation
from xaitune.advise.race import SHORT, race_cost
from xaitune.comparison.grid import cell_rates
from xaitune.comparison.rates import TRIAL_EPOCHS
from xaitune.config.choices import BACKBONES
from xaitune.config.settings import SweepConfig, TrainConfig, replace_fields
from xaitune.data.dataset import ImageData
from xaitune.errors import ConfigError
from xaitune.models.weights import load_backbone
from xaitune.plots import figures
from xaitune.training.features import FeatureCache
from xaitune.training.folder import choose_folder, is_finished, locked, start_folder
from xaitune.training.run import Run, load_run
from xaitune.training.targets import require_trainable

METHODS = ("features", "race", "heatmap")


def advise_freeze(
    data: ImageData,
    config: TrainConfig | None = None,
    *,
    model: Any = None,
    method: str | None = None,
    name: str | None = None,
    runs_dir: str | Path = "runs",
    overwrite: bool = False,
    head_seeds: int = 3,
    max_calls: int | None = None,
    cost_weight: float = COST_WEIGHT,
    sweep: SweepConfig | None = None,
    cache_dir: str | Path | None = None,
    cache_gb: float = 20.0,
    progress: Progress | None = None,
    notes: Notes | None = None,
    **options: Any,
) -> FreezeAdvice:
    """Recommend how many blocks to freeze, or to train nothing, before any whole fine-tuning.

    No test image is used, but that a race over folds validates each fold on images that another one tests.

    `method` 'features' looks at the frozen features of all blocks, after one pass over the images: linear
    heads on them, and linearised fine-tuning of every depth. 'race' also fine-tunes every depth for a few epochs, as the
    first part of a `sweep` with these settings, in each of its folds, which then continues them; it is the default where these
    trainings are short (`race.SHORT`), and 'features' elsewhere. Both weigh their evidence by a model learnt from many tasks (see
    `decision.decide`): the advised depth is expected to score least below the best one, plus `cost_weight` (a score) times the
    share of the computing that its training takes. The confidence is the chance of being within a point of the best.

    With a `model` that is a run (or its folder) trained on other images, the advice is about training it again on these:
    they are compared with its own validation images (`FreezeAdvice.drift`), and its weights are those to start from.

    'heatmap' (the default with any other `model`) looks at Grad-CAM maps of validation images alone, at Block 1 to 5: those of a
    probe (VGG16 fully frozen, with a head trained for each of `head_seeds` seeds) or of the `model`. With masks a block's
    score is its localisation: the average precision of the map for the mask, minus that of the same map moved to a random
    place. Without masks it is the mean rank over faithfulness, agreement with the other blocks' maps, concentration and
    stability. Of a segmentation that is the `model`, the maps explain the pixels of its largest region. It advises
    the deepest block within one standard error of the best; its confidence is the share of
    resamples, over groups and head seeds, that choose the same block. It takes at most `max_calls` network calls (one
    image, once forward or backward, is one call).

    `cache_dir` (default `runs_dir`/cache) stores frozen features, up to `cache_gb`. `options` are fields of TrainConfig.
    The folder `runs_dir`/advice receives advice.json, evidence.csv and pictures. Raises InputError and RunError.

    Examples:
        >>> data = ImageData.from_folder("images", image_size=(96, 96))  # doctest: +SKIP
        >>> advise_freeze(data, weights="imagenet").freeze_through  # doctest: +SKIP
        3
    """
    progress = shown_progress(progress, "advice")
    given = _as_run(model)
    run = given if isinstance(given, Run) and given.fingerprint != data.fingerprint else None
    if method is None and notes and isinstance(given, Run) and run is None:
        notes(f"{given.path} was trained on these images, so there is no drift to test: its heatmaps are looked at.")
    config = replace_fields(config or TrainConfig(), options)
    check_settings(config, method, cost_weight)
    is_open = method is None and model is None and not config.segments and max_calls is None
    if is_open:
        method = _quick_method(data, config, sweep or SweepConfig())
    method = method or ("features" if model is None or run is not None else "heatmap")
    if head_seeds < 1:
        raise ConfigError(f"head_seeds must be at least 1. Received: {head_seeds}.")
    if model is not None and run is None and method != "heatmap":
        raise ConfigError(
            f"The methods features and race take a finished run that was trained on other images. Received: {model}."
        )
    if max_calls is not None and method != "heatmap":
        raise ConfigError(
            f"max_calls limits the method heatmap alone. Received: max_calls={max_calls}, method={method!r}."
        )
    if isinstance(given, Run) and given.config.segments and run is None:
        config = replace_fields(config, {"task": "segment"})
    if config.segments and (method != "heatmap" or model is None):
        raise ConfigError(
            "The advice on a segmentation looks at the heatmaps of one: train it, with any blocks frozen, and name it with "
            "--model RUN. Or compare the freezing points themselves with 'xaitune sweep-freeze'."
        )
    require_trainable(data, config)
    cache = FeatureCache(Path(cache_dir or Path(runs_dir) / "cache"), cache_gb)
    source: HeatmapEvaluation | Evaluation
    if method == "heatmap":
        source = HeatmapEvaluation(data, config, model, head_seeds, max_calls, cache)
    else:
        race = (sweep or SweepConfig()) if method == "race" else None
        source = Evaluation(data, config, race, runs_dir, cache, cost_weight, run, notes)
    identity = source.identity
    folder, note = choose_folder(Path(runs_dir), "advice", name, identity, overwrite=overwrite)
    if note and notes:
        notes(note)
    if (folder / "advice.json").is_file() and not overwrite:
        if notes:
            notes(f"{folder} already exists, so the advice is not made again.")
        return load_advice(folder)
    if notes and is_open and method == "race":
        notes("Every depth is also tried for three epochs, since that is short on these images (--method race).")
    with locked(folder):
        start_folder(folder, "advice", {"identity": identity, "train": dataclasses.asdict(config)}, overwrite=overwrite)
        advice = source.advise(progress)
        source.draw(folder)
        write_advice(advice, folder)
    return load_advice(folder)


def check_settings(config: TrainConfig, method: str | None, cost_weight: float) -> None:
    """Raise ConfigError for settings of `advise_freeze` that no images can make possible."""
    if method not in (None, *METHODS):
        raise ConfigError(f"method must be one of {', '.join(METHODS)}. Received: {method!r}.")
    if not cost_weight >= 0:
        raise ConfigError(f"cost_weight must be at least 0. Received: {cost_weight}.")
    if config.from_scratch:
        raise ConfigError(
            f"The architecture {config.architecture} has no blocks to freeze: it is trained from random weights. "
            f"Advice is for {', '.join(BACKBONES)}."
        )


def _quick_method(data: ImageData, config: TrainConfig, sweep: SweepConfig) -> str:
    """'race' where its trainings are short, and no more than the beginning of trainings on this machine; else 'features'."""
    whole = min(config.epochs, config.patience) <= TRIAL_EPOCHS + config.warmup_epochs  # they would end in the race
    if config.from_scratch or whole or sweep.engine != "local":
        return "features"
    channels = load_backbone(config.weights, config.architecture).channels
    rates = len(cell_rates(sweep, config, config.optimizer))
    # A fold trains on all images but those of two folds, which validate and test.
    images = len(data) * (sweep.folds - 2) if sweep.folds else len(data.indices("train"))
    cost = race_cost(images, data.image_size, channels, config.architecture, rates)
    return "race" if cost <= SHORT else "features"


def write_advice(advice: FreezeAdvice, folder: Path) -> None:
    """Write the advice's folder: evidence.csv, evidence.png, and last advice.json."""
    _files.write_csv(folder / "evidence.csv", advice.evidence.reset_index())
    figures.save(advice.plot(), folder / "evidence.png")
    names = [field.name for field in dataclasses.fields(advice) if field.name not in ("evidence", "path")]
    _files.write_json(folder / "advice.json", {name: getattr(advice, name) for name in names})


def _as_run(model: Any) -> Any:
    """The run whose folder `model` names, or `model` itself."""
    path = Path(model) if isinstance(model, str | Path) else None
    return load_run(path) if path is not None and is_finished(path) else model
