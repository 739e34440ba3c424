"""The entry point of the command line: every error becomes one or two lines and an exit status.

The commands, thin calls of the public functions, stand in the other modules of this folder.
"""

import os
import sys
from typing import Annotated

import typer

from xaitune import __version__
from xaitune.cli import collect, comparison, data, explain, freeze, report, studio, train  # noqa: F401 - they register
from xaitune.cli.console import error_report, print_error
from xaitune.cli.options import app

INTERRUPTED = 130  # exit status
COMMANDS = (
    "init",
    "data-check",
    "train",
    "explain",
    "predict",
    "advise",
    "sweep-freeze",
    "compare",
    "check-advice",
    "collect",
    "report",
    "studio",
    "runs",
    "demo",
)
app.registered_commands.sort(key=lambda made: COMMANDS.index(str(made.name)))  # in the order of the work


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
        status, message = error_report(error)
        print_error(message)
    if status == INTERRUPTED:  # the parser may have turned Ctrl-C into this status
        print_error("Interrupted. What was finished is kept: run the same command again to go on.")
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
