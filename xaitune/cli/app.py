"""The command line: thin commands over the public functions. Only errors, config and console load before a command runs.

The other commands are in `datacommands`, `explaincommands` and `freezecommands`; --help lists them in the order of import.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from xaitune import __version__
from xaitune.cli import data as datacommands  # noqa: F401
from xaitune.cli import explain as explaincommands  # noqa: F401
from xaitune.cli.console import print_error, told
from xaitune.cli.freeze import say_sweep
from xaitune.cli.options import Job, app, command
from xaitune.errors import ConfigError

INTERRUPTED = 130  # exit status


def main() -> None:
    """The entry point: runs a command and turns every error into one or two lines and an exit status."""
    try:
        status = app(prog_name="xaitune", standalone_mode=False)  # however it was started
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone; nothing more may be written, not at the exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error)
            sys.exit(2)
        status, message = told(error)
        print_error(message)
    if status == INTERRUPTED:  # the parser may have turned Ctrl-C into this status
        print_error("Interrupted. What was finished is kept: give the same command again to go on.")
    sys.exit(status if isinstance(status, int) else 0)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"xaitune {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


@command("report")
def report(
    job: Job,
    path: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A run's or sweep's folder [the newest sweep].")
    ] = None,
) -> None:
    """Write one self-contained HTML page on a sweep or a run."""
    from xaitune.report import gather as pages

    if path is not None and not (path / "config.json").is_file():
        raise ConfigError(f"{path} holds no run and no sweep. Name one: 'xaitune runs' lists them.")
    with job.ui.progress("report") as progress:
        written = pages.report_on(path, job.runs_dir, job.ui.say, progress)
    job.ui.finish([written], "", report=str(written))


@command("runs")
def list_runs(job: Job) -> None:
    """List runs, sweeps and advice: name, state and score."""
    from xaitune.report import gather as pages

    table = pages.list_runs(job.runs_dir)
    if len(table):
        job.ui.table(table.set_index("name"))
    else:
        job.ui.say(f"No runs in {job.runs_dir} yet.")
    job.ui.finish([], "" if len(table) else "xaitune train", runs=table.to_dict("records"))


@command("demo")
def demo(
    job: Job, folder: Annotated[Path, typer.Option("--folder", help="Where the demo works.")] = Path("xaitune-demo")
) -> None:
    """Do all of it on generated images, in minutes.

    In xaitune-demo/: train, explain, advise, sweep 5 x 3, check, report.
    """
    from xaitune.demo.run import run_demo

    with job.ui.progress("demo") as report:
        summary = run_demo(folder, report, job.ui.say)
    say_sweep(job.ui, summary["sweep"])
    job.ui.say(summary["check"].sentence())
    job.ui.finish(
        [summary["report"]],
        f"open {summary['report']}",
        verdict=summary["check"].verdict,
        advised=summary["check"].advised,
        seconds=summary["seconds"],
    )


if __name__ == "__main__":
    main()
