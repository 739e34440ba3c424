"""What to do next: the commands that train, sweep, export and use what a page is about."""

import shlex
from pathlib import Path
from typing import Any

import pandas as pd

from xaitune._names import combination_name
from xaitune.advise.advice import FreezeAdvice
from xaitune.comparison.so_far import LAST, read_grid, recorded_grids, so_far_text, unfinished_grid
from xaitune.comparison.table import SweepTable, load_sweep
from xaitune.config.choices import PIXEL_METRICS
from xaitune.config.settings import SweepConfig
from xaitune.errors import RunError
from xaitune.report.commands import CommandLine, shown_path
from xaitune.report.run_figures import best_or_none, read_or_empty
from xaitune.report.texts import duration_text
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


def add_frozen(todo: list[tuple[str, str]], sweep: SweepTable | None) -> None:
    """Put first what needs no training, where that is shown to be good enough; last, where it may be."""
    head = sweep.best_head if sweep is not None else None
    if head is None or head["verdict"] == "contradicted":
        return
    seconds = duration_text(max(head["seconds"], 1))
    gap = f"{_signed(head['difference'])} points [{_signed(head['diff_low'])}, {_signed(head['diff_high'])}]"
    if head["verdict"] == "confirmed":
        todo.insert(0, (f"No block needs training. Fit only a linear head, in {seconds}:", head_command(head)))
    elif leading_head(sweep) is not None:
        todo.insert(
            0, (f"Fit only a linear head, in {seconds} ({gap} against the best combination):", head_command(head))
        )
    else:
        text = f"Perhaps as good ({gap} against the best combination), in {seconds}: train only a linear head, and no block:"
        todo.append((text, head_command(head)))


def leading_head(sweep: SweepTable | None) -> Any:
    """The linear head on frozen features, where it is to be preferred to every trained combination; else None.

    That is where no block is shown to need training, or where it is at least as good on validation images, which choose
    everything here, and the test images do not contradict.
    """
    head = sweep.best_head if sweep is not None else None
    if sweep is None or head is None or head["verdict"] == "contradicted":
        return None
    best = best_or_none(sweep)
    ahead = best is None or head["validation"] >= best["validation"]
    return head if head["verdict"] == "confirmed" or ahead else None


def add_use(
    todo: list[tuple[str, str]],
    result: Run | SweepTable,
    sweep: SweepTable | None,
    chosen: tuple[int, str] | None = None,
) -> None:
    """Put last how to use the recommended model, which is there already; of an unfinished sweep put first what goes on.

    `chosen`: the combination that a verdict recommends; the best one without a verdict.
    """
    if isinstance(result, Run):
        if result.state == "finished":
            todo += _use_commands("this model", shown_path(result.path))
        return
    if sweep is None or best_or_none(sweep) is None:
        return
    if grid := unfinished_grid(sweep.path):
        todo.insert(0, ("Finish the sweep:", sweep_command(sweep.path, grid)))
        return
    chosen = chosen or (int(sweep.best["freeze_through"]), str(sweep.best["optimizer"]))
    runs, head = sweep.cell_runs(*chosen), leading_head(sweep)
    trained = str(runs.loc[runs["validation"].idxmax(), "name"])
    name, which = (trained, combination_name(*chosen)) if head is None else (str(head["name"]), "the linear head")
    fold = " (of the first fold)" if name in sweep.parts else ""
    todo += _use_commands(f"the model that the sweep has trained, {which}{fold}", _place(sweep, name))
    if head is not None:
        with_maps = _place(sweep, trained)
        text = f"A file that also gives heatmaps needs a gap head, which {combination_name(*chosen)} has:"
        command = f"xaitune export {with_maps} --to onnx --with-heatmap"
        if read_or_empty(sweep.path / CONFIG).get("train", {}).get("head", "gap") != "gap":
            text = "A file that also gives heatmaps needs a model with a gap head. Train one:"
            command = f"{train_command(*chosen)} --head gap"
        todo.append((text, command))


def _place(sweep: SweepTable, name: str) -> str:
    """The folder of one of a sweep's runs, as it is typed; over folds that of the first one."""
    return shown_path(sweep.path / sweep.parts.get(name, (name,))[0])


def _use_commands(which: str, path: str) -> list[tuple[str, str]]:
    return [
        (f"Export {which}:", f"xaitune export {path} --to onnx"),
        ("Use it on new images:", f"xaitune predict {path} IMAGES"),
    ]


def _signed(share: float) -> str:
    return f"{share * 100:+.1f}"
