"""How far a sweep has come, read from its folder."""

import re
from collections.abc import Iterator
from pathlib import Path

from xaitune._files import read_json
from xaitune.training.folder import CONFIG, RESULT, is_stopped

_RUN = re.compile(r"freeze(\d)-(\w+?)(?:-lr.+)?-seed(\d+)$")


def runs_so_far(folder: Path) -> tuple[int, int] | None:
    """(runs of the grid that have ended, runs of the grid) while some have not; None for a sweep that is finished.

    A run that failed has ended. Linear heads are not counted. None too where an earlier version has not recorded the grid.
    """
    grid = read_json(folder / CONFIG).get("grid") if (folder / CONFIG).is_file() else None
    if not grid:
        return None
    failed = read_json(folder / "sweep.json")["failures"] if (folder / "sweep.json").is_file() else {}
    folds = [f"fold{number}/" for number in range(1, grid["folds"] + 1)] if grid.get("folds") else [""]
    wanted = {
        (fold, depth, optimizer, seed)
        for fold in folds
        for depth in grid["freeze_through"]
        for optimizer in grid["optimizers"]
        for seed in range(grid["seeds"])
    }
    ended = wanted & {*_ended(folder, folds), *(_run_of(name) for name in failed)}
    return (len(ended), len(wanted)) if ended != wanted else None


def so_far_text(folder: Path) -> str:
    """'so far 6 of 8 runs have ended' for a sweep that is not finished; '' for one that is."""
    ended = runs_so_far(folder)
    return f"so far {ended[0]} of {ended[1]} runs have ended" if ended else ""


def _ended(folder: Path, folds: list[str]) -> Iterator[tuple[str, int, str, int] | None]:
    for fold in folds:
        for file in (folder / fold).glob(f"*/{RESULT}"):
            if not is_stopped(file.parent):
                yield _run_of(fold + file.parent.name)


def _run_of(name: str) -> tuple[str, int, str, int] | None:
    """The fold ('' without), depth, optimizer and seed in a run's name; None for a linear head."""
    fold, between, run = name.rpartition("/")
    found = _RUN.search(run)
    return (fold + between, int(found[1]), found[2], int(found[3])) if found else None
