"""Commands on results: report, runs, demo."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from xaitune.cli.completion import complete_run
from xaitune.cli.options import Job, command, option
from xaitune.cli.verdict import say_sweep, say_verdict
from xaitune.config.toml import CONFIG_FILE
from xaitune.errors import ConfigError


@command("report")
def report(
    job: Job,
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN", help="Folder of a run or a sweep (default: the newest sweep).", autocompletion=complete_run
        ),
    ] = None,
    check: Annotated[
        bool,
        option("--check", help="Check the maps of the image viewer, and mark those not to rely on; takes minutes."),
    ] = False,
) -> None:
    """Write one self-contained HTML page on a sweep or a run."""
    from xaitune.report.gather import report_on

    if path is not None and not (path / "config.json").is_file():
        raise ConfigError(f"{path} holds no run and no sweep. Name one: 'xaitune runs' lists them.")
    with job.ui.progress("report") as progress:
        written, following = report_on(path, job.runs_dir, job.ui.say, progress, checked=check)
    job.ui.finish([written], following, report=str(written))


@command("runs")
def list_runs(job: Job) -> None:
    """List runs, sweeps and advice: name, state and score."""
    from xaitune.report import gather

    table = gather.list_runs(job.runs_dir)
    if len(table):
        job.ui.table(table.set_index("name"))
    else:
        job.ui.say(f"No runs in {job.runs_dir} yet.")
    first = (
        job.following("train", None)
        if job.config_file or Path(CONFIG_FILE).is_file()
        else shlex.join(["xaitune", "init", "IMAGES", *job.runs])
    )
    job.ui.finish([], "" if len(table) else first, runs=table.to_dict("records"))


@command("demo")
def demo(
    job: Job,
    folder: Annotated[
        Path, option("--folder", help="Folder for everything the demo makes.", default="xaitune-demo")
    ] = Path("xaitune-demo"),
    quick: Annotated[
        bool, option("--quick", help="Check the installation: few small images, trainings of an epoch, 2 depths.")
    ] = False,
) -> None:
    """Do everything once on generated images, in minutes.

    In xaitune-demo/: train, explain, advise, sweep 5 depths x 3 optimizers, check, report.
    """
    from xaitune.demo.run import run_demo

    with job.ui.progress("demo") as progress:
        summary = run_demo(folder, progress, job.ui.say, quick=quick)
    say_sweep(job.ui, summary["sweep"])
    verdict = say_verdict(job.ui, summary["sweep"], summary["check"])
    job.ui.say(f"Open the page in a browser: {summary['report'].absolute()}")
    job.ui.say("Your own images: put those of each class into a folder named after it, and give the folder above them.")
    job.ui.finish(
        [summary["report"]],
        "xaitune init FOLDER",
        **verdict,
        advised=summary["check"].advised,
        seconds=summary["seconds"],
    )
