"""The sections of the page: the data, the heatmaps, the advice, the sweep, and how all of it was made."""

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune._names import combination_name, frozen_name, metric_name, plural
from xaitune.advise.advice import FreezeAdvice
from xaitune.comparison.cells import alike_sentence, head_name, lacking, over_seeds
from xaitune.comparison.so_far import so_far_text
from xaitune.comparison.table import SweepTable, best_or_none
from xaitune.data.splits import SPLITS
from xaitune.explain.heatmaps import BlockHeatmaps
from xaitune.explain.lime.result import Superpixels
from xaitune.plots import charts
from xaitune.report.cell_details import improving_runs, sweep_details
from xaitune.report.next_steps import all_runs, asked_grids, sweep_command, train_command
from xaitune.report.run_figures import read_or_empty
from xaitune.report.texts import (
    SHADES,
    Picture,
    duration_text,
    interval_text,
    percent_text,
    picture,
    points_text,
    score_text,
    spaced_percent,
)
from xaitune.stats.resampling import FEW_GROUPS
from xaitune.training.run import Run

MOST_IMAGES = 6  # of heatmap strips on the page
CONFIDENCE = {  # the lowest confidence -> how it is said
    0.9: "Very.",
    0.7: "Fairly.",
    0.5: "Not very; another depth may well be better.",
    0.0: "Hardly at all; another depth may well be better.",
}
MOST_LINES = 50  # of skipped files and of problems
SPAN = 0.1  # of scores that takes all shades of the sweep's table: smaller differences must not look large


def data_section(data: Any, data_check: Any, run: dict[str, Any]) -> dict[str, Any] | None:
    """Class frequencies as picture and table, groups, skipped files, problems; from predictions without `data`."""
    if data is not None:
        counts, skipped = data.counts(), [(str(file), str(why)) for file, why in data.skipped]
        groups, images = len(np.unique(np.asarray(data.groups))), len(data.files)
    elif len(run.get("predictions", ())):
        table = run["predictions"]
        counts = pd.crosstab(table["true"], table["split"]).reindex(list(run["class_names"])).fillna(0).astype(int)
        skipped = [(str(file), str(why)) for file, why in run["metadata"].get("skipped", [])]
        groups, images = table["group"].nunique(), len(table)
    else:
        return None
    columns = [c for c in (*SPLITS, "images", "groups") if c in counts]
    splits = counts[[c for c in SPLITS if c in counts]]
    frequencies = picture(
        charts.class_frequencies(splits), f"Bar chart: number of images of each of {len(counts)} classes in each split"
    )
    return {
        "summary": f"{plural(images, 'image')} of {plural(len(counts), 'class')} in {plural(groups, 'group')}. "
        "A group (one thing, photographed several times) is never divided between splits.",
        "picture": frequencies,
        "columns": columns,
        "rows": [(str(name), [int(row[c]) for c in columns]) for name, row in counts.iterrows()],
        "totals": [int(counts[c].sum()) for c in columns if c != "groups"],
        "skipped": skipped[:MOST_LINES],
        "skipped_count": len(skipped),
        "problems": _problems(data_check)[:MOST_LINES],
    }


def _problems(data_check: Any) -> list[tuple[str, str]]:
    """(level, message) of each finding of a DataCheck, a table, or a list of problems."""
    problems = getattr(data_check, "problems", data_check)
    if isinstance(problems, pd.DataFrame):
        return [(str(p.get("level", "")), str(p.get("message", ""))) for p in problems.to_dict("records")]
    return [(p.level, p.message) for p in problems or ()]


def heatmap_strips(maps: BlockHeatmaps | Superpixels) -> list[Picture]:
    """A few images with their maps, as many classes as possible."""
    first = list(dict(zip(reversed(maps.classes.tolist()), range(len(maps) - 1, -1, -1), strict=True)).values())
    chosen = (sorted(first) + [i for i in range(len(maps)) if i not in first])[:MOST_IMAGES]
    pictures = []
    for i in chosen:
        what = f"blocks {', '.join(map(str, maps.blocks))}" if isinstance(maps, BlockHeatmaps) else "superpixels"
        alt = f"{maps.method} maps ({what}) of {maps.files[i]} for class {maps.explained(i)}"
        pictures.append(picture(maps.plot(image=i), alt, "/".join(Path(maps.files[i]).parts[-2:]), dpi=100, photo=True))
    return pictures


def advice_section(advice: FreezeAdvice | None) -> dict[str, Any] | None:
    """The advice, its reasons, and its evidence as picture and table."""
    if advice is None:
        return None
    table = advice.table()
    rows = []
    for candidate, (name, (score, *texts)) in zip(advice.evidence.index, table.T.items(), strict=True):
        votes = percent_text(advice.votes.get(candidate, 0))
        figures = [spaced_percent(text) for text in texts]
        rows.append((name, votes, score, figures, str(candidate) == str(advice.freeze_through)))
    kind = "validation image" if advice.method == "heatmap" else "training and validation image"
    tested = "no test image"
    if advice.folds:
        tested = f"short trainings in {advice.folds} folds, which validate on every image, test images too"
    alt = f"Score of each candidate with its interval; freezing {frozen_name(advice.freeze_through)} is advised"
    return {
        "headline": spaced_percent(advice.headline),
        "sure": confidence_sentence(advice),
        "share": "chosen by" if advice.method == "heatmap" else "chance of being the best",
        "reasons": [spaced_percent(p) for p in advice.text.split("\n") if p.strip()],
        "measures": [str(name).replace("_", " ") for name in advice.figures],
        "measure": advice.score_meaning,
        "meanings": advice.meanings,
        "rows": rows,
        "picture": picture(advice.plot(), alt),
        "basis": f"The advice rests on {plural(advice.images, kind)} in {plural(advice.groups, 'group')}, and on {tested}. "
        f"Method: {advice.method}. Made on {str(advice.created)[:16].replace('T', ' ')}.",
    }


def confidence_sentence(advice: FreezeAdvice) -> str:
    """What the confidence of advice is the chance of, and how much it is worth."""
    sure, count = percent_text(advice.confidence), len(advice.evidence)
    if advice.method == "heatmap":
        of = (
            f"{sure} of the resamples of the validation images choose this depth; with {count} depths to choose from, chance "
            f"alone would be {percent_text(1 / count)}"
        )
    else:
        depth = f"{frozen_name(advice.freeze_through)} frozen" if advice.freeze_through else "no block frozen"
        of = f"With {depth}, the chance of being within 1 point of the best depth is estimated at {sure}"
    how = next(word for bound, word in CONFIDENCE.items() if advice.confidence >= bound)
    return f"How sure is the advice? {how} {of}."


def sweep_section(sweep: SweepTable | None) -> dict[str, Any] | None:
    """The table frozen blocks x optimizer, all seeds, and the pictures."""
    if sweep is None:
        return None
    best, runs = best_or_none(sweep), all_runs(sweep)
    optimizers = list(dict.fromkeys(runs["optimizer"]))
    cells = {
        (int(c["freeze_through"]), c["optimizer"]): _table_cell(c, best, shade)
        | {"improving": _improving_text(sweep, c)}
        for c, shade in zip(sweep.cells.to_dict("records"), _shades(sweep.cells["test"]), strict=True)
    }
    rows: list[tuple[str, list[dict[str, Any]]]] = []
    trials = runs["state"] == "stopped"  # of a race for the advice, or at a learning rate that was not chosen
    for depth in sorted(runs.loc[~trials, "freeze_through"].unique()):
        row = []
        for optimizer in optimizers:
            same = (runs["freeze_through"] == depth) & (runs["optimizer"] == optimizer)
            ended = runs.loc[same & ~trials, "state"]
            states = ", ".join(dict.fromkeys(s.partition(":")[0] for s in ended)) or "not run"
            cell = cells.get((depth, optimizer), {"finished": False, "best": False})
            lost = int((ended != "finished").sum())
            what = "runs" if cell.get("rate") else "seeds"
            row.append(cell | {"state": states, "lost": f"{lost} of {len(ended)} {what} not finished" if lost else ""})
        rows.append((frozen_name(depth), row))
    pictures = []
    if best is not None:
        pictures.append(
            picture(sweep.plot(), f"Test {metric_name(sweep.metric)} of every combination with its interval")
        )
        pictures.append(picture(sweep.plot_histories(), "Validation curves of all runs of the sweep"))
    heads = [_head_row(head) for _, head in sweep.heads.iterrows()]
    return {
        "so_far": so_far_text(sweep.path),
        "over": over_seeds(sweep.cells),
        "tried_rates": bool((runs["state"] == "stopped").any()),
        "several_seeds": bool((sweep.cells["seeds"] > 1).any()),
        "improving": any(cell["improving"] for cell in cells.values()),
        "details": None if best is None else sweep_details(sweep, str(best["name"])),
        "heads": heads,
        "folds": len(next(iter(sweep.parts.values()), ())),
        "metric": metric_name(sweep.metric),
        "basis": f"{plural(sweep.images, 'test image')} in {plural(sweep.groups, 'group')}",
        "few": _few(sweep),
        "alike": alike_sentence(sweep.cells),
        "optimizers": optimizers,
        "rows": rows,
        "enough": _titled(sweep.enough) if best is not None else None,
        "best": _titled(best),
        "runs": runs[["name", "seed", "state", "validation", "test", "seconds"]].to_dict("records"),
        "pictures": pictures,
    }


def _titled(cell: pd.Series | None) -> dict[str, Any] | None:
    """A combination with its name in words as its `title`; None without one."""
    return (
        None
        if cell is None
        else cell.to_dict() | {"title": combination_name(cell["freeze_through"], cell["optimizer"])}
    )


def _improving_text(sweep: SweepTable, cell: dict[str, Any]) -> str:
    """How many of a combination's trainings were still improving at the last epoch; '' for none."""
    improving, trainings = improving_runs(sweep, cell)
    often = f" in {improving} of {trainings}" if trainings > 1 else ""
    return f"still improving{often}" if improving else ""


def _head_row(head: pd.Series) -> dict[str, Any]:
    """A linear head on frozen features as the page shows it."""
    return {
        "name": head_name(head),
        "test": f"{score_text(head['test'])} {interval_text(head['low'], head['high'])}",
        "validation": score_text(head["validation"]),
        "difference": points_text(head["difference"], head["diff_low"], head["diff_high"]),
        "seconds": duration_text(max(head["seconds"], 1)),
    }


def _few(sweep: SweepTable) -> str:
    """What is too scarce for the cells' intervals to be reliable, such as '4 groups in the smallest class'; '' nothing."""
    lacks = lacking(sweep.cells) if "few" in sweep.cells else ""
    return lacks or (plural(sweep.groups, "group") if sweep.groups < FEW_GROUPS else "")


def _shades(scores: pd.Series) -> list[int]:
    """A shade 0..SHADES for each score, the best darkest: over what they span, and over SPAN at least."""
    behind = (scores.max() - scores) / max(scores.max() - scores.min(), SPAN)
    return [round(SHADES * (1 - share)) if math.isfinite(share) else 0 for share in behind]


def _table_cell(cell: dict[str, Any], best: pd.Series | None, shade: int) -> dict[str, Any]:
    finished = cell["test"] is not None and math.isfinite(cell["test"])
    same = best is not None and (cell["freeze_through"], cell["optimizer"]) == (
        best["freeze_through"],
        best["optimizer"],
    )
    return {
        "finished": finished,
        "name": cell["name"],
        "shade": shade,
        "test": score_text(cell["test"]),
        "interval": interval_text(cell["low"], cell["high"]),
        "validation": score_text(cell["validation"]),
        "seeds": int(cell.get("seeds", 1)),
        "seconds": duration_text(cell.get("seconds")),
        "rate": f"{cell['learning_rate']:g}, chosen of {cell['rates']} tried" if cell.get("rates", 1) > 1 else "",
        "difference": points_text(cell.get("difference"), cell.get("diff_low"), cell.get("diff_high")),
        "best": same,
        "equals": finished and bool(cell.get("equals", False)) and not same,
    }


def _flat(values: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """(name, text) of each value that says something."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield key, ", ".join(f"{k} {v}" for k, v in value.items())
        elif key != "skipped" and value not in (None, "", []):
            between = " x " if key == "image_size" else ", "
            yield key, between.join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def result_settings(result: Run | SweepTable, run: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the training and of the data behind a result, of a sweep those of the shown run; {} where unknown."""
    if isinstance(result, Run):
        return dataclasses.asdict(result.config), dataclasses.asdict(result.data_config)
    config = read_or_empty(result.folder(run["name"]) / "config.json") if run["name"] else {}
    return config.get("train", {}), config.get("data", {})


def making_section(result: Run | SweepTable, sweep: SweepTable | None, run: dict[str, Any]) -> dict[str, Any]:
    """Machine and versions, configuration, and the commands that repeat it."""
    train, data = result_settings(result, run)
    commands = []
    if isinstance(result, Run):
        task = " --task segment" if result.config.segments else ""
        commands.append(
            train_command(result.config.freeze_through, result.config.optimizer) + f"{task} --seed {result.config.seed}"
        )
    if sweep is not None:
        commands += [sweep_command(sweep.path, grid) for grid in asked_grids(sweep)]
    made = {"fingerprint": result.fingerprint, **run["metadata"]}
    of = f" (of {run['name']})" if run["name"] else ""
    tables = [(f"Machine and versions{of}", made), (f"Training{of}", train), ("Data", data)]
    return {"tables": [(t, list(_flat(v))) for t, v in tables if v], "commands": [*commands, "xaitune report"]}
