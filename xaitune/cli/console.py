"""What a command prints: progress with the time left, tables, one JSON object, and errors in one or two lines."""

import contextlib
import errno
import json
import math
import numbers
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from xaitune._files import disk_error
from xaitune._names import duration
from xaitune.errors import XaituneError

if TYPE_CHECKING:
    import pandas as pd

PLAIN_WIDTH = 120  # characters, where there is no terminal to ask
PLAIN_SECONDS = 10.0  # between two lines of progress where there is no terminal


class Ui:
    """The screen: text on stdout, or with `json_only` one object on stdout and all else on stderr."""

    def __init__(self, json_only: bool = False) -> None:
        self.json_only = json_only
        self.stdout = sys.stdout  # kept: with json_only, what a library prints goes to stderr
        self.console, self.errors = _console(json_only), _console(True)
        self.result: dict[str, Any] = {}
        self.printed = False
        self.live: Console | None = None  # while a bar is shown

    def say(self, text: str) -> None:
        """One line, printed as it is; above the bar where one is shown."""
        shown = self.live if self.live and self.console.is_terminal else self.console
        shown.print(text, markup=False)

    def warn(self, text: str) -> None:
        """One line that should not be missed."""
        self.errors.print(text, style="yellow", markup=False)

    def table(self, frame: "pd.DataFrame", title: str = "", digits: int = 3) -> None:
        """A DataFrame with its index."""
        table = Table(title=title or None, title_justify="left", header_style="bold")
        table.add_column(str(frame.index.name or ""), overflow="fold")
        for column in frame.columns:
            table.add_column(
                str(column), justify="right" if frame[column].dtype.kind in "fiu" else "left", overflow="fold"
            )
        for index, row in zip(frame.index, frame.itertuples(index=False), strict=True):
            table.add_row(_cell(index, digits), *(_cell(v, digits) for v in row))
        self.console.print(table)

    def finish(self, wrote: Sequence[str | Path], next_command: str = "", **values: Any) -> None:
        """Name what was written and the next command; with `json_only` print the object."""
        self.result |= values | {"wrote": [str(w) for w in wrote], "next": next_command}
        for path in wrote:
            self.say(f"Wrote {path}")
        if next_command:
            self.say(f"Next: {next_command}")
        self._print_object(self.result)

    def fail(self, status: int, message: str) -> None:
        """With `json_only`, the object of a command that failed; nothing where one was printed already."""
        if not self.printed:
            self._print_object({"error": message, "exit_status": status})

    def _print_object(self, value: dict[str, Any]) -> None:
        if self.json_only:
            self.printed = True
            print(json.dumps(_strict(value), ensure_ascii=False, allow_nan=False), file=self.stdout, flush=True)

    @contextlib.contextmanager
    def progress(self, what: str, unit: str = "") -> Iterator["_Bars | _PlainProgress"]:
        """A function (done, total, text) that moves a bar with the time left, or prints lines without a terminal.

        `unit`: what is counted, such as 'images'; without it the numbers are shares of the work, shown in percent. Its
        `part` (name, done, total, text) moves a bar of its own for each name; None without a terminal.
        """
        if self.errors.is_terminal:
            with self._bar(what, unit) as report:
                self.live = self.errors
                try:
                    yield report
                finally:
                    self.live = None
        else:
            yield _PlainProgress(self, what, unit)

    @contextlib.contextmanager
    def _bar(self, what: str, unit: str) -> Iterator["_Bars"]:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            TaskProgressColumn(),
            _TimeLeft(compact=True),
            TextColumn(
                "{task.fields[text]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
            ),
        )
        with Progress(*columns, console=self.errors, transient=True, expand=True) as bar:
            yield _Bars(bar, what, unit)


class _TimeLeft(TimeRemainingColumn):
    """'02:15 left'; nothing before that is known."""

    def render(self, task: Task) -> Text:
        """The time left of a task."""
        known = task.total is not None and task.time_remaining is not None and not task.finished
        return super().render(task) + Text(" left") if known else Text("")


class _Bars:
    """A bar for the whole, and one below it for each part that is under way."""

    def __init__(self, bar: Progress, what: str, unit: str) -> None:
        self.bar, self.whole, self.unit = bar, bar.add_task(what, total=None, text=""), unit
        self.parts: dict[str, TaskID] = {}

    def __call__(self, done: int, total: int, text: str = "") -> None:
        self.bar.update(self.whole, completed=done, total=total, text=_counted(done, total, self.unit, text))

    def part(self, name: str, done: int, total: int, text: str) -> None:
        """Move the bar of a part; at its end it goes."""
        if done >= total:
            if name in self.parts:
                self.bar.remove_task(self.parts.pop(name))
            return
        if name not in self.parts:
            self.parts[name] = self.bar.add_task(f"  {name}", total=total, text="")
        self.bar.update(self.parts[name], completed=done, total=total, text=text)


class _PlainProgress:
    """A line now and then, with the time left by rule of three."""

    part = None

    def __init__(self, ui: Ui, what: str, unit: str) -> None:
        self.ui, self.what, self.unit = ui, what, unit
        self.start = self.last = time.monotonic()
        self.first: int | None = None

    def __call__(self, done: int, total: int, text: str = "") -> None:
        now = time.monotonic()
        if self.first is None:
            self.first, self.start = done, now
        if now - self.last < PLAIN_SECONDS:
            return
        self.last = now
        moved = done - self.first
        left = (
            f", about {duration((now - self.start) / moved * (total - done))} left"
            if moved and 100 * moved >= total
            else ""
        )
        count = _counted(done, total, self.unit) or f"{done / max(total, 1):.0%}"
        more = f" ({text})" if text and text != self.unit else ""
        self.ui.errors.print(f"{self.what}: {count}{left}{more}", markup=False)


def _counted(done: int, total: int, unit: str, text: str = "") -> str:
    """'3 of 12 images, text'; the text alone without a unit."""
    return ", ".join(filter(None, (f"{done} of {total} {unit}" if unit else "", text if text != unit else "")))


def _cell(value: Any, digits: int) -> str:
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        return "" if math.isnan(value) else f"{value:.{digits}f}"
    return str(value)


def _strict(value: Any) -> Any:
    """A value as strict JSON takes it: numpy's own made plain, NaN and infinities null, the rest as text."""
    if isinstance(value, dict):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    if hasattr(value, "tolist"):  # an array or a scalar of NumPy
        return _strict(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _console(stderr: bool) -> Console:
    """A terminal has its own width; elsewhere a table keeps its columns whole."""
    # No markup: a file may be named part[1].png, or :smile:.png.
    console = Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PLAIN_WIDTH
    return console


def error_report(error: BaseException) -> tuple[int, str]:
    """(exit status, message) of an error: ours, the command line parser's, the system's, or an unexpected one."""
    if isinstance(error, XaituneError):
        return error.exit_status, str(error)
    if hasattr(error, "format_message"):
        return 2, _usage(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return 1, str(disk_error(error))
    if isinstance(error, PermissionError):
        return 2, f"No permission for {error.filename}. Choose another folder with --runs-dir, or change its rights."
    if isinstance(error, MemoryError):
        return 1, "Memory ran out. Use a smaller --image-size or --batch-size."
    first = str(error).splitlines()[0] if str(error) else ""
    return 1, f"{type(error).__name__}: {first}\nThis is a bug in xaitune: --debug shows where it happened."


def _usage(error: Any) -> str:
    """What was wrong with the call, the value that was received, the nearest name, and where to look."""
    text = " ".join(error.format_message().split())
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    near = getattr(error, "possibilities", None)
    if near:
        text = f"{error.message}. Did you mean {near[0]}?"  # the nearest
    flags = getattr(parameter, "opts", [])
    for before, value in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        name, _, joined = before.partition("=")
        if name in flags and name.startswith("-") and (joined or value):
            text = f"{text.rstrip('.')}. Received: {joined or value}."
            break
    end = "" if text.endswith((".", "?", "!")) else "."
    return f"{text}{end} See '{context.command_path if context else 'xaitune'} --help'."


def print_error(message: str) -> None:
    """One or two lines on stderr."""
    print(f"Error: {message}", file=sys.stderr)
