"""The entry point of the command line: every error becomes one or two lines and an exit status.

The commands, thin calls of the public functions, stand in the other modules of this folder.
"""

import contextlib
import os
import signal
import sys
from typing import Annotated

import typer

from xaitune._machine import half_units

# They register their commands.
from xaitune.cli import (  # noqa: F401
    advise,
    collect,
    comparison,
    data,
    doctor,
    explain,
    export,
    predict,
    report,
    studio,
    sweep,
    track,
    train,
    verdict,
)
from xaitune.cli.console import error_report, print_error
from xaitune.cli.options import app
from xaitune.doctor import versions

INTERRUPTED, TERMINATED = 130, 143  # exit statuses
COMMANDS = (
    "init",
    "data-check",
    "train",
    "explain",
    "predict",
    "export",
    "advise",
    "sweep-freeze",
    "compare",
    "check-advice",
    "collect",
    "report",
    "studio",
    "runs",
    "track",
    "doctor",
    "demo",
)
app.registered_commands.sort(key=lambda made: COMMANDS.index(str(made.name)))  # in the order of the work


def main() -> None:
    """The entry point: runs a command and turns every error into one or two lines and an exit status."""
    ended = _end_as_interrupted()
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
        status = TERMINATED if ended else INTERRUPTED
    sys.exit(status if isinstance(status, int) else 0)


def _end_as_interrupted() -> list[int]:
    """Let the signal SIGTERM end a command as Ctrl-C does; returns the list that receives it."""
    ended: list[int] = []

    def end(number: int, _: object) -> None:
        ended.append(number)
        raise KeyboardInterrupt

    with contextlib.suppress(ValueError):  # not in the main thread, where no signal arrives
        signal.signal(signal.SIGTERM, end)
    return ended


def _precision() -> str:
    units = half_units()
    return (
        f"bfloat16 where the precision is auto ({units[0]})"
        if units
        else "float32 where the precision is auto, without a GPU"
    )


def _print_version(wanted: bool) -> None:
    if wanted:
        print(", ".join(f"{name} {number}" for name, number in versions().items()) + f"; {_precision()}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the versions and stop.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass
