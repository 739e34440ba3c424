"""What a sweep says in the terminal: its table, the answer, and the check of the advice; the command check-advice."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from xaitune._names import duration, frozen_name, metric_name
from xaitune.cli.completion import complete_run
from xaitune.cli.console import Ui
from xaitune.cli.options import Job, command
from xaitune.errors import ConfigError


def check_sweep(advice: Any | None, table: Any) -> Any | None:
    """The check of the advice, which is written into the sweep's folder; None where the sweep cannot check it."""
    from xaitune.advise.check import can_check, check_advice, save_check

    if advice is None or not can_check(advice, table):
        return None
    check = check_advice(advice, table)
    save_check(check, table.path)
    return check


def say_verdict(ui: Ui, table: Any, check: Any | None) -> dict[str, Any]:
    """Print what a sweep answers, as the top of its page does, and what to do; returns the verdict for the JSON object."""
    from xaitune.report.commands import CommandLine
    from xaitune.report.headline import verdict_texts

    section, paste = verdict_texts(table, table, None, check, {}), CommandLine(table.path)
    ui.say(f"\n{section['headline']}")
    for heading, text in section["paragraphs"]:
        ui.say(f"{heading}: {text}" if heading else text)
    for text, what in section["todo"][:1]:
        ui.say(f"{text} {paste(what)}\n")
    if check is None:
        return {"verdict": None, "headline": section["headline"], "sentence": table.frozen_sentence()}
    return {"verdict": check.verdict, "headline": section["headline"], "sentence": check.sentence()}


def report_command(sweep: Path) -> str:
    """The command that writes the page on the sweeps where this one lies."""
    from xaitune.report.commands import CommandLine

    return CommandLine(sweep)("xaitune report")


def say_time(ui: Ui, start: float, trainings: float | None) -> None:
    """Print how long a command took that began at `start`, and the seconds of all trainings where earlier calls did some."""
    text = f"This call took {duration(time.monotonic() - start)}."
    if trainings is not None:
        text += f" All its trainings together, those of earlier calls included, took {duration(trainings)}."
    ui.say(text)


def say_sweep(ui: Ui, table: Any) -> None:
    """Print a sweep's cells as the table frozen blocks x optimizer, and what is to be known of it."""
    import pandas as pd

    from xaitune.comparison.cells import alike_sentence, head_name, lacking, over_seeds

    cells, best = table.cells.copy(), table.best["name"]
    cells["shown"] = [
        f"{r.test:.3f} [{r.low:.3f}, {r.high:.3f}]"
        + ("*" if r.name == best else "=" if r.equals else "")
        + (f" lr {r.learning_rate:g}" if r.rates > 1 else "")
        for r in cells.itertuples()
    ]
    order = list(dict.fromkeys(cells["optimizer"]))
    grid = cells.pivot(index="freeze_through", columns="optimizer", values="shown")[order].fillna("")
    grid = grid.sort_index(ascending=False)
    grid.index = [frozen_name(depth) for depth in grid.index]
    grid.index.name = "frozen"
    tested = f"[95 % interval over {table.groups} groups, {table.images} images]"
    ui.table(grid, f"Test {metric_name(table.metric)}, {over_seeds(cells)} {tested}")
    if len(table.heads):
        heads = pd.DataFrame(
            {
                "validation": [f"{h.validation:.3f}" for h in table.heads.itertuples()],
                "test": [f"{h.test:.3f} [{h.low:.3f}, {h.high:.3f}]" for h in table.heads.itertuples()],
                "minus the best combination": [
                    f"{h.difference:+.3f} [{h.diff_low:+.3f}, {h.diff_high:+.3f}]" for h in table.heads.itertuples()
                ],
                "seconds": [f"{h.seconds:.1f}" for h in table.heads.itertuples()],
            },
            index=pd.Index([head_name(head) for _, head in table.heads.iterrows()], name="features of"),
        )
        ui.table(heads, "No block trained: a linear head on frozen features")
    if table.baseline is not None:
        ui.say(f"A model that marks nothing (all background) scores {table.baseline:.3f}.")
    ui.say(f"* best combination on validation, where it scores {table.best['validation']:.3f}.")
    ui.say("= not told apart from the best combination by these test images, which does not mean equal.")
    if alike := alike_sentence(cells):
        ui.say(alike)
    if lacks := lacking(cells):
        ui.say(f"There is too little data to rely on the intervals: only {lacks}.")
    if (cells["rates"] > 1).any():
        tried = " or ".join(str(count) for count in sorted(set(cells["rates"]) - {1}))
        ui.say(f"lr: the learning rate that is best on validation, of {tried} that were tried.")
        if "sgd" in order and len(order) > 1:
            ui.say("At a momentum of 0.9, nag and momentum at a tenth of sgd's rate take steps as long as sgd's.")
    for row in table.runs[~table.runs["state"].isin(["finished", "stopped"])].itertuples():
        ui.warn(f"{row.name}: {row.state}")


@command("check-advice")
def check_again(
    job: Job,
    sweep: Annotated[
        Path | None,
        typer.Argument(metavar="SWEEP", help="A sweep's folder (default: the newest).", autocompletion=complete_run),
    ] = None,
) -> None:
    """Check the advice against the sweep again."""
    from xaitune.advise.check import check_advice, save_check
    from xaitune.report.next_steps import load_finished_runs

    folder, advice = _sweep_and_advice(job, sweep)
    table = load_finished_runs(folder)
    check = check_advice(advice, table)
    save_check(check, folder)
    say_sweep(job.ui, table)
    job.ui.finish([folder / "check.json"], report_command(folder), **say_verdict(job.ui, table, check))


def _sweep_and_advice(job: Job, path: Path | None) -> tuple[Path, Any]:
    from xaitune.advise.advice import load_advice
    from xaitune.advise.check import advice_for
    from xaitune.comparison.table import find_sweep
    from xaitune.training.folder import folder_kind

    folder = path or find_sweep(job.runs_dir)
    if folder is None or folder_kind(folder) != "sweep":
        raise ConfigError(f"No sweep in {path or job.runs_dir}. Make one with 'xaitune sweep-freeze'.")
    job.ui.say(f"Sweep: {folder}")
    place = advice_for(folder)
    if place is None:
        raise ConfigError(f"No advice on the data of {folder} in {job.runs_dir}. Make it with 'xaitune advise'.")
    job.ui.say(f"Advice: {place}")
    return folder, load_advice(place)
