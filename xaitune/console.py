"""What a command prints: progress with the time left, tables, one JSON object, and errors in one or two lines."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

PLAIN_SECONDS = 10.0  # between two lines of progress where there is no terminal


class Ui:
    """The screen: text on stdout, or with `json_only` one object on stdout and all else on stderr."""

    def __init__(self, json_only: bool = False) -> None:
        self.json_only = json_only
        self.console = Console(stderr=json_only, highlight=False, soft_wrap=True)
        self.errors = Console(stderr=True, highlight=False, soft_wrap=True)
        self.result: dict[str, Any] = {}

    def say(self, text: str) -> None:
        """One line, printed as it is."""
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """One line that should not be missed."""
        self.errors.print(text, style="yellow", markup=False)

    def table(self, frame: pd.DataFrame, title: str = "", digits: int = 3) -> None:
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
        if self.json_only:
            print(json.dumps(self.result, ensure_ascii=False, default=_plain))

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Callable[..., None]]:
        """A function (done, total, text) that moves a bar with the time left, or prints lines without a terminal."""
        if self.errors.is_terminal:
            with self._bar(what) as report:
                yield report
        else:
            yield _PlainProgress(self, what).report

    @contextlib.contextmanager
    def _bar(self, what: str) -> Iterator[Callable[..., None]]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
        )
        with Progress(*columns, console=self.errors, transient=True) as bar:
            task = bar.add_task(what, total=None, text="")

            def report(done: int, total: int, text: str = "") -> None:
                bar.update(task, completed=done, total=total, text=text)

            yield report


class _PlainProgress:
    """A line now and then, with the time left by rule of three."""

    def __init__(self, ui: Ui, what: str) -> None:
        self.ui, self.what = ui, what
        self.start = self.last = time.monotonic()
        self.first: int | None = None

    def report(self, done: int, total: int, text: str = "") -> None:
        now = time.monotonic()
        if self.first is None:
            self.first, self.start = done, now
        if now - self.last < PLAIN_SECONDS:
            return
        self.last = now
        moved = done - self.first
        left = f", about {duration((now - self.start) / moved * (total - done))} left" if moved > 0 else ""
        self.ui.errors.print(f"{self.what}: {done}/{total}{left}{f' ({text})' if text else ''}", markup=False)


def duration(seconds: float) -> str:
    """'45 s', '12 min' or '3.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _cell(value: Any, digits: int) -> str:
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.{digits}f}"
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


def print_error(message: str) -> None:
    """One or two lines on stderr."""
    print(f"Error: {message}", file=sys.stderr)
