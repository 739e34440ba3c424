"""What to do next: the commands that train, sweep, export and use what a page is about."""

from typing import Any

import pandas as pd

from xaitune._names import combination_name
from xaitune.advise.advice import FreezeAdvice
from xaitune.comparison.so_far import so_far_text
from xaitune.comparison.table import SweepTable
from xaitune.config.choices import PIXEL_METRICS
from xaitune.report.commands import shown_path
from xaitune.report.run_figures import best_or_none, read_or_empty
from xaitune.report.texts import duration_text
from xaitune.training.folder import CONFIG
from xaitune.training.run import Run


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


def sweep_command(sweep: SweepTable, advice: FreezeAdvice | None = None) -> str:
    """The command that runs the sweep's whole grid, or goes on with it; with the depth that `advice` advises in it."""
    runs, grid = all_runs(sweep), read_or_empty(sweep.path / CONFIG).get("grid") or {}
    grid = grid or read_or_empty(sweep.path / "sweep.json").get("grid", {})
    depths = grid.get("freeze_through") or sorted(runs["freeze_through"].unique())
    if advice is not None:
        depths = sorted({*depths, advice.freeze_through})
        depths = depths if len(depths) > 1 else sorted({*depths, max(depths[0] - 1, 0), min(depths[0] + 1, 5)})
    optimizers = grid.get("optimizers") or list(dict.fromkeys(runs["optimizer"]))
    seeds = grid.get("seeds") or runs["seed"].nunique()
    rates, folds = grid.get("learning_rates"), grid.get("folds")
    shown = rates if rates == "own" else ",".join(f"{rate:g}" for rate in rates or ())
    return (
        f"xaitune sweep-freeze --freeze-through {','.join(map(str, depths))} --optimizers {','.join(optimizers)} "
        f"--seeds {seeds}" + (f" --learning-rates {shown}" if rates else "") + (f" --folds {folds}" if folds else "")
    )


def all_runs(sweep: SweepTable) -> pd.DataFrame:
    """The sweep's runs. A run that failed before it wrote anything has its depth, optimizer and seed in its name alone."""
    runs = sweep.runs.copy()
    named = runs["name"].str.extract(r"^freeze(?P<freeze_through>\d)-(?P<optimizer>\w+)(?:-lr.+)?-seed(?P<seed>\d+)")
    for column in ("freeze_through", "optimizer", "seed"):
        runs[column] = runs[column].where(runs[column].notna(), named[column])
    runs = runs.dropna(subset=["freeze_through", "optimizer", "seed"])
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
    """The linear head on frozen features that scores above every trained combination, shown or not; None if there is none."""
    head = sweep.best_head if sweep is not None else None
    return head if head is not None and head["difference"] > 0 and head["verdict"] != "contradicted" else None


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
    if so_far_text(sweep.path):
        todo.insert(0, ("Finish the sweep:", sweep_command(sweep)))
        return
    chosen = chosen or (int(sweep.best["freeze_through"]), str(sweep.best["optimizer"]))
    head = sweep.best_head
    is_head = head is not None and (head["verdict"] == "confirmed" or leading_head(sweep) is not None)
    if head is not None and is_head:
        name, which = str(head["name"]), "the linear head"
    else:
        runs = sweep.cell_runs(*chosen)
        name, which = str(runs.loc[runs["validation"].idxmax(), "name"]), combination_name(*chosen)
    fold = " (of the first fold)" if name in sweep.parts else ""
    path = shown_path(sweep.path / sweep.parts.get(name, (name,))[0])
    todo += _use_commands(f"the model that the sweep has trained, {which}{fold}", path)
    if is_head:
        text = (
            "A file that also gives heatmaps (xaitune export --with-heatmap) needs a model with a gap head. Train one:"
        )
        todo.append((text, f"{train_command(*chosen)} --head gap"))


def _use_commands(which: str, path: str) -> list[tuple[str, str]]:
    return [
        (f"Export {which}:", f"xaitune export {path} --to onnx"),
        ("Use it on new images:", f"xaitune predict {path} IMAGES"),
    ]


def _signed(share: float) -> str:
    return f"{share * 100:+.1f}"
