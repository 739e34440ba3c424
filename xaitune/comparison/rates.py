"""The choice of a cell's learning rate: its first seed tries each of them for a few epochs, and the best one goes on."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xaitune._files import read_json
from xaitune.config.settings import TrainConfig
from xaitune.training.folder import CONFIG, RESULT, is_finished, is_stopped, run_name
from xaitune.training.run import read_history, stop_run

TRIAL_EPOCHS = 3  # of fine-tuning at the full rate, after which the rates are compared


def cells_of(runs: Sequence[TrainConfig]) -> list[list[TrainConfig]]:
    """The runs of each cell (a depth and an optimizer), in the order of `grid.grid_runs`."""
    cells: dict[tuple[int, str], list[TrainConfig]] = {}
    for run in runs:
        cells.setdefault((run.freeze_through, run.optimizer), []).append(run)
    return list(cells.values())


def runs_to_do(cell: Sequence[TrainConfig], folder: Path | None) -> list[tuple[TrainConfig, int | None]]:
    """The runs of one cell that can be trained now, each with the number of epochs after which it pauses, or None.

    As long as the cell has to choose its learning rate, these are the trials of its first seed, which pause after
    `trial_epochs`; then its missing runs at the chosen rate. Reads the sweep's `folder`, None for a new sweep, and writes
    nothing.
    """
    chosen = chosen_rate(cell, folder)
    if chosen is None:
        return [(run, trial_epochs(run)) for run in trials_to_do(cell, folder)]
    return [(run, None) for run in cell if run.rate == chosen and not has_ended(run, folder)]


def expected_runs(cell: Sequence[TrainConfig], folder: Path | None) -> list[TrainConfig]:
    """The runs of a cell that are still to be trained, for an estimate: those of rates not chosen as short as trials."""
    if chosen_rate(cell, folder) is not None:
        return [run for run, _ in runs_to_do(cell, folder)]
    return [as_trial(run) for run in trials_to_do(cell, folder)[1:]] + [run for run in cell if run.rate == cell[0].rate]


def trials_to_do(cell: Sequence[TrainConfig], folder: Path | None) -> list[TrainConfig]:
    """The runs of the first seed of a cell that lack their trial."""
    return [run for run in _first_seed(cell) if trial_score(run, folder) is None]


def as_trial(run: TrainConfig) -> TrainConfig:
    """A run as short as its trial, for an estimate."""
    return dataclasses.replace(run, epochs=min(trial_epochs(run), run.epochs), warmup_epochs=0)


def chosen_rate(cell: Sequence[TrainConfig], folder: Path | None) -> float | None:
    """The rate with the best trial of the cell's first seed, the lowest of equally good ones; None before all have ended.

    A cell with a single rate has no trials.
    """
    first = sorted(_first_seed(cell), key=lambda run: run.rate)
    if len(first) == 1:
        return first[0].rate
    scores = {run.rate: trial_score(run, folder) for run in first}
    known = {rate: score for rate, score in scores.items() if score is not None}
    return max(known, key=lambda rate: known[rate]) if len(known) == len(scores) else None


def stop_others(cell: Sequence[TrainConfig], folder: Path) -> None:
    """End the paused trials of the rates that were not chosen, if the cell has chosen one."""
    chosen = chosen_rate(cell, folder)
    for run in _first_seed(cell):
        path = run_folder(run, folder)
        if chosen is not None and run.rate != chosen and path and not is_finished(path):
            stop_run(path)


def trial_score(run: TrainConfig, folder: Path | None) -> float | None:
    """The best validation score of a run's trial, its first `trial_epochs`; None before it has done them.

    Minus infinity for a run that has diverged.
    """
    path = run_folder(run, folder)
    if path is None or not (path / "history.csv").is_file():
        return None
    if is_finished(path) and read_json(path / RESULT)["state"] == "diverged":
        return -np.inf
    rows = read_history(path)
    scores = rows[rows["stage"] == "fine-tune"][f"val_{run.metric}"].head(trial_epochs(run))
    return float(scores.max()) if len(scores) else -np.inf


def trial_epochs(run: TrainConfig) -> int:
    """How many epochs of fine-tuning a trial has: TRIAL_EPOCHS at the full rate."""
    return run.warmup_epochs + TRIAL_EPOCHS


def has_ended(run: TrainConfig, folder: Path | None) -> bool:
    """Whether a run has ended in a sweep's folder, other than by `stop_others`."""
    path = run_folder(run, folder)
    return path is not None and is_finished(path) and not is_stopped(path)


def run_folder(run: TrainConfig, folder: Path | None) -> Path | None:
    """The folder of a run inside the sweep's, under its name with or without the learning rate; None where it has none."""
    if folder is None:
        return None
    for with_rate in (True, False):
        path = folder / run_name(run, with_rate=with_rate)
        if (path / CONFIG).is_file() and read_json(path / CONFIG)["identity"].get("learning_rate") == run.rate:
            return path
    return None


def count_done(cell: Sequence[TrainConfig], folder: Path | None) -> int:
    """How many seeds of a cell have ended at its learning rate; 0 as long as it has to choose that."""
    chosen = chosen_rate(cell, folder)
    return sum(run.rate == chosen and has_ended(run, folder) for run in cell)


def _first_seed(cell: Sequence[TrainConfig]) -> list[TrainConfig]:
    return [run for run in cell if run.seed == cell[0].seed]
