"""What a shell offers for the value of an option or an argument: names, paths, and the folders of runs."""

from collections.abc import Callable, Sequence
from pathlib import Path

import typer


def names_completion(names: Sequence[str], *, several: bool = False) -> Callable[[str], list[str]]:
    """Offers `names`; with `several` also after a comma, where those that are given already are left out."""

    def offer(incomplete: str) -> list[str]:  # typer reads the signature, which rules out a class
        before, comma, last = incomplete.rpartition(",") if several else ("", "", incomplete)
        given = before.split(",")
        return [before + comma + name for name in names if name.startswith(last) and name not in given]

    return offer


def complete_path(incomplete: str) -> list[str]:
    """Offers files and folders."""
    typed = Path(incomplete)
    folder, start = (typed, "") if incomplete.endswith("/") else (typed.parent, typed.name)
    if not folder.is_dir():
        return []
    shown = "" if "/" not in incomplete else f"{folder.as_posix().rstrip('/')}/"
    found = (path for path in sorted(folder.iterdir()) if path.name.startswith(start))
    return [f"{shown}{path.name}{'/' if path.is_dir() else ''}" for path in found if start or path.name[0] != "."]


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offers the folders in --runs-dir that hold results, and those in sweeps and comparisons; else any path."""
    runs_dir = Path(ctx.params.get("runs_dir") or "runs")
    files = (*runs_dir.glob("*/config.json"), *runs_dir.glob("*/*/config.json"))
    found = sorted(file.parent.as_posix() for file in files)
    return [path for path in found if path.startswith(incomplete)] or complete_path(incomplete)
