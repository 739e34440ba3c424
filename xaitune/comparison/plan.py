"""The plan of a sweep: its folder, all of its runs, and those still missing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xaitune._files import read_json
from xaitune._progress import Notes
from xaitune.comparison.grid import base_config, grid_runs, sweep_identity
from xaitune.config.settings import SweepConfig, TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.training.folder import CONFIG, choose_folder, is_finished, run_name


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep will do. `plan_sweep` makes it; `cost.plan_cost` estimates its cost and `run_sweep` carries it out.

    `base`: the training that all cells share. `weights` and `channels`: the digest and the widths of the pretrained
    base. `runs`: all runs of the grid; `missing`: those that have not ended in `folder` yet.
    """

    folder: Path
    config: SweepConfig
    base: TrainConfig
    identity: dict[str, Any]
    weights: str
    channels: tuple[int, ...]
    runs: tuple[TrainConfig, ...]
    missing: tuple[TrainConfig, ...]

    def run_name(self, run: TrainConfig) -> str:
        """The name of a run's folder inside the sweep's folder."""
        return run_name(run, with_rate=self.config.learning_rates is not None)


def plan_sweep(
    data: ImageData,
    config: SweepConfig,
    train: TrainConfig,
    *,
    name: str | None = None,
    runs_dir: str | Path = "runs",
    notes: Notes | None = None,
) -> SweepPlan:
    """Plan the sweep that `sweep_freeze` would run with the same arguments. Writes nothing. Raises InputError, RunError."""
    from xaitune.models.weights import load_backbone  # loads Keras, which the plan itself does not need

    base = base_config(train, config, notes)
    data.require_trainable()
    data.require_classes(base.classes_to_augment, "augment_classes")
    backbone = load_backbone(base.weights)
    identity = sweep_identity(data, base, backbone.digest)
    folder, note = choose_folder(Path(runs_dir), "sweep", name, identity, overwrite=False)
    if note and notes:
        notes(note)
    runs = tuple(grid_runs(config, base))
    missing = tuple(run for run in runs if not has_ended(run, folder))
    return SweepPlan(folder, config, base, identity, backbone.digest, backbone.channels, runs, missing)


def has_ended(run: TrainConfig, folder: Path) -> bool:
    """Whether a run has ended in a sweep's folder, under its name with or without the learning rate."""
    places = (folder / run_name(run, with_rate=with_rate) for with_rate in (False, True))
    rates = (read_json(p / CONFIG)["identity"].get("learning_rate") for p in places if is_finished(p))
    return run.rate in rates
