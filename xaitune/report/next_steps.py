"""What to do next: the commands that train, sweep, export and use what a page is about."""

import shlex
from pathlib import Path
from typing import Any

import pandas as pd

from xaitune._names import combination_name
from xaitune.advise.advice import FreezeAdvice
from xaitune.advise.check import AdviceCheck
from xaitune.advise.recommended import Recommended, recommended_model
from xaitune.comparison.so_far import LAST, read_grid, recorded_grids, so_far_text, unfinished_grid
from xaitune.comparison.table import SweepTable, load_sweep
from xaitune.config.choices import PIXEL_METRICS
from xaitune.config.settings import SweepConfig
from xaitune.errors import RunError
from xaitune.report.commands import CommandLine, shown_path
from xaitune.report.run_figures import read_or_empty
from xaitune.training.folder import CONFIG, find_runs, is_linear
from xaitune.training.run import Run, load_run


def train_command(through: int, optimizer: str, rate: float | None = None) -> str:
    """The command that trains one combination; `rate` is the learning rate that was best of several."""
    option = f" --learning-rate {rate:g}" if rate is not None else ""
    return f"xaitune train --freeze-through {through} --optimizer {optimizer}{option}"


def head_command(head: Any) -> str:
    """The command that fits a linear head on frozen features."""
    option = "" if len(head["blocks"]) == 5 else " --head-blocks best"
    return f"xaitune train --head blocks --freeze-through 5{option}"


def advise_command(result: Run | SweepTable) -> str:
    """The command that makes advice; on a segmentation it looks at the heatmaps of a trained one."""
    metric = result.config.metric if isinstance(result, Run) else result.metric
    return "xaitune advise --model RUN" if metric in PIXEL_METRICS else "xaitune advise"


def cell_command(cell: Any) -> str:
    """The command that trains a combination of a sweep, at its best learning rate."""
    rate = cell["learning_rate"] if cell.get("rates", 1) > 1 else None
    return train_command(cell["freeze_through"], cell["optimizer"], rate)


def sweep_command(sweep: Path, grid: SweepConfig) -> str:
    """The command that trains what the sweep in a folder lacks of a grid."""
    rates = grid.learning_rates
    shown = rates if rates in (None, "own") else ",".join(f"{rate:g}" for rate in rates)
    return (
        f"xaitune sweep-freeze --freeze-through {','.join(map(str, grid.freeze_through))} "
        f"--optimizers {','.join(grid.optimizers)} --seeds {grid.seeds}"
        + (f" --learning-rates {shown}" if rates else "")
        + (f" --folds {grid.folds}" if grid.folds else "")
        + (f" --name {shlex.quote(sweep.name)}" if sweep.name != "sweep" else "")
    )


def load_finished_runs(folder: Path) -> SweepTable:
    """A sweep's table. Raises RunError, which names the command that goes on, while no training (of some fold) has finished."""
    grid = unfinished_grid(folder)
    if grid is not None:
        places = [folder / f"fold{number}" for number in range(1, grid.folds + 1)] if grid.folds else [folder]
        if not all(any(not is_linear(load_run(run).config) for run in find_runs(place)) for place in places):
            command = CommandLine(folder)(f"{sweep_command(folder, grid)} --config {shown_path(folder / CONFIG)}")
            what = (
                f"In some folds of {folder} no depth has been trained to its end yet"
                if grid.folds
                else f"No depth of {folder} has been trained to its end yet"
            )
            raise RunError(
                f"{what}: {so_far_text(folder)}. Wait if it is running. If it was interrupted, "
                f"this goes on with it: {command}"
            )
    return load_sweep(folder)


def add_depth_command(sweep: SweepTable, advice: FreezeAdvice) -> str:
    """The command that adds the advised depth to a sweep, and another one where it would stand alone."""
    grid = asked_grids(sweep)[-1].with_depth(advice.freeze_through)
    if len(grid.freeze_through) == 1:
        depth = advice.freeze_through
        for near in {max(depth - 1, 0), min(depth + 1, 5)}:
            grid = grid.with_depth(near)
    return sweep_command(sweep.path, grid)


def asked_grids(sweep: SweepTable) -> list[SweepConfig]:
    """The grids that a sweep was asked for; of one that an earlier version made, what its runs tell."""
    if grids := recorded_grids(sweep.path):
        return grids
    runs = all_runs(sweep)
    found = {
        "freeze_through": sorted({*runs["freeze_through"]}),
        "optimizers": list(dict.fromkeys(runs["optimizer"])),
        "seeds": runs["seed"].nunique(),
    }
    return [read_grid(found | read_or_empty(sweep.path / LAST).get("grid", {}))]


def all_runs(sweep: SweepTable) -> pd.DataFrame:
    """The sweep's runs without the linear heads that failed, which have no optimizer."""
    runs = sweep.runs.dropna(subset=["freeze_through", "optimizer", "seed"])
    return runs.astype({"freeze_through": int, "seed": int})


def add_use(
    todo: list[tuple[str, str]], result: Run | SweepTable, sweep: SweepTable | None, check: AdviceCheck | None = None
) -> None:
    """Put first how to use the recommended model, which is there already; of an unfinished sweep what goes on with it.

    Of a single run it stands last: comparing freezing points comes first. Training is named last: it makes sense again only
    with more images.
    """
    if isinstance(result, Run):
        if result.state == "finished":
            todo += _use_commands("Export this model:", shown_path(result.path))
        return
    chosen = recommended_model(sweep, check) if sweep is not None else None
    if sweep is None or chosen is None:
        return
    if grid := unfinished_grid(sweep.path):
        todo.insert(0, ("Finish the sweep:", sweep_command(sweep.path, grid)))
        return
    fold = " (of the first fold)" if chosen.run in sweep.parts else ""
    text = f"Export the recommended model, {chosen.title}{fold}, which the sweep has trained already:"
    todo[:0] = _use_commands(text, shown_path(sweep.folder(chosen.run)))
    if chosen.depth is None:
        todo.insert(2, _heatmap_command(sweep, check))
    todo.append(("When you have more images, train the recommended model again:", _again_command(sweep, chosen)))
    enough = sweep.enough
    if (
        enough is not None
        and chosen.depth is not None
        and str(enough["name"]) != f"freeze{chosen.depth}-{chosen.optimizer}"
    ):
        name = combination_name(enough["freeze_through"], enough["optimizer"])
        todo.append((f"Where training time matters then, {name} is shown to be good enough:", cell_command(enough)))


def _heatmap_command(sweep: SweepTable, check: AdviceCheck | None) -> tuple[str, str]:
    """What gives heatmaps in an exported file, where a linear head is recommended, which cannot: (text, command)."""
    trained = recommended_model(sweep, check, trained=True)
    assert trained is not None
    if read_or_empty(sweep.path / CONFIG).get("train", {}).get("head", "gap") != "gap":
        again = f"{_again_command(sweep, trained)} --head gap"
        return "A file that also gives heatmaps needs a model with a gap head. Train one:", again
    text = f"A file that also gives heatmaps needs a gap head, which {trained.title} has:"
    return text, f"xaitune export {shown_path(sweep.folder(trained.run))} --to onnx --with-heatmap"


def _again_command(sweep: SweepTable, chosen: Recommended) -> str:
    """The command that trains a recommended model."""
    if chosen.depth is None or chosen.optimizer is None:
        return head_command(sweep.heads.set_index("name").loc[chosen.run])
    return cell_command(sweep.cell(chosen.depth, chosen.optimizer))


def _use_commands(text: str, path: str) -> list[tuple[str, str]]:
    return [
        (text, f"xaitune export {path} --to onnx"),
        ("Or use it on new images without exporting it:", f"xaitune predict {path} IMAGES"),
    ]
