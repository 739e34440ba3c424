"""Logs a training while it runs. What goes wrong with that is said once and never stops the training."""

import importlib.util
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xaitune._files import write_json
from xaitune._progress import Notes
from xaitune.config.tracking_settings import TrackingConfig
from xaitune.errors import ConfigError
from xaitune.tracking.contents import STATUS, Contents, end_times, metrics_of, read_contents, read_rows, run_pictures
from xaitune.tracking.event_files import PATTERN, EventFiles
from xaitune.tracking.mlflow_server import at_most, reason_of
from xaitune.tracking.run_log import RECORD, RunLog, is_sent, record_of, send_run

START_SECONDS, END_SECONDS = 5.0, 20.0  # for all requests of a beginning and of an end
SHARE = 0.1  # sending takes at most this share of a training's time: a slow server gets several epochs at once
AWAY_SECONDS = 60.0  # without another try, after a server has failed to answer
AWAY: dict[str, float] = {}  # address of a server whose last call failed -> the time before which no other is made


def require_packages(config: TrackingConfig | None) -> None:
    """Raise ConfigError if a package that the tracking needs is not installed."""
    if config is None:
        return
    needed = {"tensorboard": ["tensorboard"] if config.tensorboard else []}
    needed["mlflow"] = ["mlflow"] if config.mlflow else []
    if (config.mlflow or "").startswith(("sqlite", "local")):
        needed["mlflow"] += ["sqlalchemy", "alembic"]
    for extra, modules in needed.items():
        for module in modules:
            if importlib.util.find_spec(module) is None:
                raise ConfigError(f"--{extra} needs the package {module}. Install it: pip install 'xaitune[{extra}]'.")


def try_mlflow(uri: str, work: Callable[[], object], notes: Notes | None, kept: Path) -> bool:
    """Do some work with MLflow, and return whether it succeeded.

    After a failure nothing is tried for a minute, and until a call succeeds no other failure is noted. `kept`: the folder
    that holds the results.
    """
    if AWAY.get(uri, 0.0) > time.monotonic():
        return False
    try:
        work()
    except Exception as error:  # whatever it is, a training must not end by it
        if notes and uri not in AWAY:
            notes(
                f"MLflow at {uri} cannot be used ({reason_of(error)}). Everything is kept in {kept}; "
                f"send it later with: xaitune track {kept}"
            )
        AWAY[uri] = time.monotonic() + AWAY_SECONDS
        return False
    AWAY.pop(uri, None)
    return True


class Follower:
    """Logs one training: `start` when its folder is there, `epochs` after each of them, `end` when it pauses or has ended."""

    def __init__(self, folder: Path, config: TrackingConfig | None, notes: Notes | None) -> None:
        self.folder, self.config, self.notes = folder, config or TrackingConfig(), notes
        self.events: EventFiles | None = None
        self.written = 0  # epochs in the event file
        self.log: RunLog | None = None
        self.next = 0.0  # the time from which MLflow may be asked again

    def start(self) -> None:
        """Begin to log, or continue what an earlier process has begun."""
        if self.config.tensorboard:
            self._tensorboard(self._begin_events)
        self._mlflow(self._open, START_SECONDS)

    def epochs(self, rows: list[dict[str, Any]]) -> None:
        """Log the epochs of a history that have not been logged."""
        self._write_events(rows)
        if time.monotonic() >= self.next:  # never again after a failure, until the end
            self._mlflow(lambda: self._open().log_rows(rows), START_SECONDS, paced=True)

    def end(self) -> None:
        """Log what the folder holds now, of a run that has ended or pauses."""
        if not self.config.is_on:
            return
        rows = read_rows(self.folder)
        self._write_events(rows)
        contents = read_contents(self.folder)
        self._tensorboard(lambda: self._end_events(contents, len(rows)))
        if contents.state is None:
            self._mlflow(lambda: self._open().log_rows(rows), END_SECONDS)
        else:
            status, seconds = STATUS[str(contents.state)], math.inf if self.config.mlflow_model else END_SECONDS
            self._mlflow(lambda: self._open().finish(contents, run_pictures(self.folder), status), seconds)

    def catch_up(self) -> None:
        """Log a run that had ended before, unless that has been done."""
        if self.config.tensorboard and not list(self.folder.glob(PATTERN)):
            self.start()
            self.end()
        elif self.config.mlflow and not is_sent(self.folder, self.config):
            self.end()

    def _write_events(self, rows: list[dict[str, Any]]) -> None:
        def write() -> None:
            if self.events is None:
                return
            times = end_times(rows, time.time())
            for step in range(self.written, len(rows)):
                self.events.scalars(metrics_of(rows[step]), step + 1, times[step])
            self.written = max(self.written, len(rows))
            self.events.flush()

        self._tensorboard(write)

    def _begin_events(self) -> None:
        self.events = EventFiles(self.folder)
        self.events.settings(read_contents(self.folder).params)

    def _end_events(self, contents: Contents, step: int) -> None:
        if self.events is None:
            return
        if contents.state == "finished":
            self.events.scalars(contents.scores, step, time.time())
            for name, png in run_pictures(self.folder).items():
                self.events.picture(f"pictures/{Path(name).stem}", png, step)
        self.events.close()
        self.events = None

    def _tensorboard(self, work: Callable[[], None]) -> None:
        """Write to the event file; a failure, such as a full disk, is noted and ends that file alone."""
        try:
            work()
        except Exception as error:
            self.events = None
            if self.notes:
                self.notes(f"TensorBoard's file in {self.folder} cannot be written ({error}). The training goes on.")

    def _open(self) -> RunLog:
        if self.log is None:
            assert self.config.mlflow is not None
            self.log = RunLog(self.folder, self.config, read_contents(self.folder))
        return self.log

    def _mlflow(self, work: Callable[[], object], seconds: float, *, paced: bool = False) -> None:
        if self.config.mlflow is None:
            return
        begun = time.monotonic()
        with at_most(seconds):
            done = try_mlflow(self.config.mlflow, work, self.notes, self.folder)
        now = time.monotonic()
        wait = (now - begun) * (1 - SHARE) / SHARE if paced else 0.0
        self.next = now + wait if done else math.inf


def send_again(folder: Path, config: TrackingConfig, notes: Notes | None) -> None:
    """Send a finished run once more, since its folder has another file."""
    if config.mlflow is not None:
        with at_most(END_SECONDS):
            if not try_mlflow(config.mlflow, lambda: send_run(folder, config), notes, folder):
                write_json(folder / RECORD, record_of(folder) | {"sent": False})
