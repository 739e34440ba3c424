"""The grids that a sweep was asked for, and how many of their runs have ended, read from its folder."""

from pathlib import Path
from typing import Any

from xaitune._files import read_json
from xaitune.comparison.grid import GRID_FIELDS, frozen_runs, grid_runs
from xaitune.comparison.rates import cells_of, chosen_rate, has_ended, runs_to_do
from xaitune.config.settings import SweepConfig, TrainConfig
from xaitune.training.folder import CONFIG, run_name

# The settings that say which runs there are.
GRID = ("freeze_through", "optimizers", "seeds", "learning_rates", "folds")
LAST = "sweep.json"  # the grid of the last call and its failures
# Fold ('' without one), depth, optimizer and seed; a linear head has its name instead of the last three.
Run = tuple[Any, ...]


def recorded_grids(folder: Path) -> list[SweepConfig]:
    """The grids that a sweep was asked for; [] in the folder of an earlier version."""
    return [read_grid(grid) for grid in _config(folder).get("grids", ())]


def read_grid(values: dict[str, Any]) -> SweepConfig:
    """A grid as config.json or sweep.json records it."""
    return SweepConfig(**{name: values[name] for name in GRID if name in values})


def add_grid(grids: list[SweepConfig], new: SweepConfig) -> list[dict[str, Any]]:
    """`grids` and another one for config.json. A grid that is a part of another is left out."""
    kept = [old for old in grids if not _is_part(old, new)]
    kept += [] if any(_is_part(new, old) for old in kept) else [new]
    return [{name: getattr(grid, name) for name in GRID} for grid in kept]


def failed_runs(folder: Path) -> list[dict[str, Any]]:
    """The runs that failed in the last call: name, state, and but for a linear head freeze_through, optimizer and seed."""
    if not (folder / LAST).is_file():
        return []
    last = read_json(folder / LAST)
    named = {name: run for run in grid_runs(read_grid(last["grid"]), _base(folder)) for name in _both_names(run)}
    return [
        {"name": name, "state": f"failed: {error}"}
        | ({f: getattr(named[name], f) for f in GRID_FIELDS} if name in named else {})
        for name, error in last["failures"].items()
    ]


def runs_so_far(folder: Path) -> tuple[int, int] | None:
    """(runs that have ended, runs of all grids) while some have not; None for a sweep that is finished.

    None too in the folder of an earlier version.
    """
    ended, count = count_runs(folder)
    return (ended, count) if ended < count else None


def count_runs(folder: Path) -> tuple[int, int]:
    """(runs that have ended, runs of all grids), linear heads among them; (0, 0) in the folder of an earlier version.

    A run that failed has ended. A combination that tries several learning rates counts once for each seed.
    """
    wanted: set[Run] = set()
    missing: set[Run] = set()
    for grid in recorded_grids(folder):
        all_runs, lacking = _wanted_and_missing(folder, grid)
        wanted |= all_runs
        missing |= lacking
    return len(wanted - missing), len(wanted)


def unfinished_grid(folder: Path) -> SweepConfig | None:
    """The first grid that lacks runs; None for a sweep that is finished."""
    return next((grid for grid in recorded_grids(folder) if _wanted_and_missing(folder, grid)[1]), None)


def so_far_text(folder: Path) -> str:
    """'so far 6 of 8 runs have ended' for a sweep that is not finished; '' for one that is."""
    ended = runs_so_far(folder)
    return f"so far {ended[0]} of {ended[1]} runs have ended" if ended else ""


def _wanted_and_missing(folder: Path, grid: SweepConfig) -> tuple[set[Run], set[Run]]:
    """The runs of a grid, and those of them that have not ended."""
    wanted: set[Run] = set()
    missing: set[Run] = set()
    for fold in [f"fold{number}" for number in range(1, grid.folds + 1)] if grid.folds else [""]:
        place = folder / fold
        failed = {run["name"] for run in failed_runs(place)}
        for cell in cells_of(grid_runs(grid, _base(folder))):
            due = [run for run, _ in runs_to_do(cell, place) if not _both_names(run) & failed]
            if due and chosen_rate(cell, place) is None:  # every seed waits for the trials
                due = cell
            wanted |= {(fold, run.freeze_through, run.optimizer, run.seed) for run in cell}
            missing |= {(fold, run.freeze_through, run.optimizer, run.seed) for run in due}
        heads = frozen_runs(_base(folder))
        wanted |= {(fold, run_name(run)) for run in heads}
        missing |= {(fold, run_name(run)) for run in heads if not has_ended(run, place) and run_name(run) not in failed}
    return wanted, missing


def _both_names(run: TrainConfig) -> set[str]:
    return {run_name(run), run_name(run, with_rate=True)}


def _config(folder: Path) -> dict[str, Any]:
    return read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}


def _base(folder: Path) -> TrainConfig:
    return TrainConfig(**_config(folder).get("train", {}))


def _is_part(grid: SweepConfig, other: SweepConfig) -> bool:
    """Whether another grid has all runs of a grid."""
    return (
        (grid.learning_rates, grid.folds) == (other.learning_rates, other.folds)
        and {*grid.freeze_through} <= {*other.freeze_through}
        and {*grid.optimizers} <= {*other.optimizers}
        and grid.seeds <= other.seeds
    )
