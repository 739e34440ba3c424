"""The plan of a sweep: its folder, the runs of its grid, and those still to be trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xaitune._progress import Notes
from xaitune.comparison.grid import GRID_FIELDS, base_config, frozen_runs, grid_runs
from xaitune.comparison.rates import as_trial, cells_of, count_done, expected_runs, has_ended, run_folder, trials_to_do
from xaitune.config.settings import SweepConfig, TrainConfig, replace_fields
from xaitune.data.dataset import ImageData
from xaitune.training.folder import choose_folder, run_identity, run_name
from xaitune.training.targets import pixel_digest, require_trainable


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep will do. `plan_sweep` makes it; `cost.plan_cost` estimates its cost and `run_sweep` carries it out.

    A sweep over folds has only `folds`: the data and the plan of each.

    `base`: the training that all cells share. `weights` and `channels`: the digest and the widths of the pretrained
    base. `cells`: the runs of each cell of the grid, each seed with each learning rate. `frozen`: the linear heads on
    frozen features that stand beside the grid. `only_trials`: end each cell with the trials of its learning rates.
    """

    folder: Path
    config: SweepConfig
    base: TrainConfig
    identity: dict[str, Any]
    weights: str
    channels: tuple[int, ...]
    cells: tuple[list[TrainConfig], ...]
    frozen: tuple[TrainConfig, ...]
    folds: tuple[tuple[ImageData, "SweepPlan"], ...] = ()
    only_trials: bool = False

    def run_name(self, run: TrainConfig) -> str:
        """The name of a run's folder inside the sweep's folder."""
        path = run_folder(run, self.folder)
        one_rate = self.config.learning_rates == "own" or run.learning_rate in (None, self.base.learning_rate)
        return path.name if path else run_name(run, with_rate=not one_rate)

    @property
    def total(self) -> int:
        """How many runs the sweep has: one for each cell and seed, and one for each linear head on frozen features."""
        return sum(p.total for _, p in self.folds) + len(self.cells) * self.config.seeds + len(self.frozen)

    @property
    def done(self) -> int:
        """How many of them have ended."""
        heads = sum(has_ended(run, self.folder) for run in self.frozen)
        parts = sum(part.done for _, part in self.folds)
        return parts + heads + sum(count_done(cell, self.folder) for cell in self.cells)

    @property
    def expected(self) -> list[TrainConfig]:
        """The runs that are still to be trained, for an estimate: a rate that will not be chosen has TRIAL_EPOCHS."""
        heads = [run for run in self.frozen if not has_ended(run, self.folder)]
        parts = [run for _, part in self.folds for run in part.expected]
        if self.only_trials:
            return parts + heads + [as_trial(run) for cell in self.cells for run in trials_to_do(cell, self.folder)]
        return parts + heads + [run for cell in self.cells for run in expected_runs(cell, self.folder)]


def plan_sweep(
    data: ImageData,
    config: SweepConfig,
    train: TrainConfig,
    *,
    name: str | None = None,
    runs_dir: str | Path = "runs",
    only_trials: bool = False,
    notes: Notes | None = None,
) -> SweepPlan:
    """Plan the sweep that `sweep_freeze` would run with the same arguments. Writes nothing. Raises InputError, RunError.

    `only_trials`: plan the trials of its learning rates alone, which the sweep itself then continues.
    """
    from xaitune.models.weights import load_backbone  # loads Keras, which the plan itself does not need

    base = base_config(train, config, notes)
    require_trainable(data, base)
    backbone = load_backbone(base.weights, base.architecture)
    identity = sweep_identity(data, base, backbone.digest, config.folds)
    folder, note = choose_folder(Path(runs_dir), "sweep", name, identity, overwrite=False)
    if note and notes:
        notes(note)
    if config.folds:
        one = replace_fields(config, {"folds": None})
        folds = []
        for number in range(1, config.folds + 1):
            part = ImageData.from_config(replace_fields(data.config, {"fold": f"{number}/{config.folds}"}))
            folds.append(
                (part, plan_sweep(part, one, base, name=f"fold{number}", runs_dir=folder, only_trials=only_trials))
            )
        about = (folder, config, base, identity, backbone.digest, backbone.channels)
        return SweepPlan(*about, (), (), tuple(folds), only_trials)
    cells = tuple(cells_of(grid_runs(config, base)))
    frozen = tuple(frozen_runs(base))
    return SweepPlan(
        folder, config, base, identity, backbone.digest, backbone.channels, cells, frozen, only_trials=only_trials
    )


def sweep_identity(data: ImageData, base: TrainConfig, digest: str, folds: int | None) -> dict[str, Any]:
    """What distinguishes one sweep from another: its data, folds and base configuration.

    The grid is left out, so it may grow.
    """
    identity = run_identity(base, data.config, data.fingerprint, digest, pixel_digest(data, base))
    identity["learning_rate"] = base.learning_rate
    return {k: v for k, v in identity.items() if k not in GRID_FIELDS} | ({"folds": folds} if folds else {})
