"""The log of one folder in MLflow: which run it has there, and what has been sent."""

import functools
import time
from pathlib import Path
from typing import Any

from xaitune._files import read_json, write_json
from xaitune.config.tracking_settings import TrackingConfig
from xaitune.errors import RunError
from xaitune.tracking.contents import (
    EPOCH,
    STATUS,
    Contents,
    end_times,
    metrics_of,
    read_contents,
    run_pictures,
)
from xaitune.tracking.mlflow_server import Server

RECORD = (
    "mlflow.json"  # in the folder of what is logged: the address, the run's id, and whether all of it has been sent
)


def record_of(folder: Path) -> dict[str, Any]:
    """The record in a folder, or one that says that nothing has been sent."""
    nothing = {"uri": None, "run_id": None, "sent": False}
    try:
        return nothing | read_json(folder / RECORD)
    except (OSError, RunError):  # there is none, or it is damaged
        return nothing


def is_sent(folder: Path, config: TrackingConfig) -> bool:
    """Whether everything in a folder has been sent to the address of `config`."""
    known = record_of(folder)
    return bool(known["sent"]) and known["uri"] == config.mlflow


@functools.lru_cache(maxsize=1)
def server_at(uri: str, experiment: str) -> Server:
    """The connection, kept for the next run of this process."""
    return Server(uri, experiment)


class RunLog:
    """A folder's run in MLflow, made or found again. Every method may raise whatever MLflow and the network raise."""

    def __init__(self, folder: Path, config: TrackingConfig, contents: Contents) -> None:
        assert config.mlflow is not None
        self.folder, self.config = folder, config
        known, above = record_of(folder), record_of(folder.parent)
        self.parent = above["run_id"] if above["uri"] == config.mlflow else None
        self.run_id: str | None = known["run_id"] if known["uri"] == config.mlflow else None
        if (
            known["run_id"] is None or self.run_id is not None
        ):  # else the other server's run stays known until this one answers
            self._note(self.run_id)
        self.server = server_at(config.mlflow, config.mlflow_experiment)
        if self.run_id is not None and self.server.has(self.run_id):
            self.steps = self.server.last_step(self.run_id, EPOCH)
            self.server.set_status(self.run_id, "RUNNING")
        else:
            self._note(self.server.create(contents, self.parent))
            self.steps = 0
        assert self.run_id is not None
        self.server.describe(self.run_id, contents, self.parent)

    def _note(self, run_id: str | None, *, sent: bool = False) -> None:
        self.run_id = run_id
        write_json(self.folder / RECORD, {"uri": self.config.mlflow, "run_id": run_id, "sent": sent})

    def log_rows(self, rows: list[dict[str, Any]], ended: float | None = None) -> None:
        """Record the epochs that MLflow lacks; the last one ended at `ended`, now unless given."""
        times = end_times(rows, ended or time.time())
        values = [
            (name, value, step, when)
            for step, (row, when) in enumerate(zip(rows, times, strict=True), start=1)
            if step > self.steps
            for name, value in metrics_of(row).items()
        ]
        if values:
            self.server.log(self._id, values)
        self.steps = max(self.steps, len(rows))

    def finish(self, contents: Contents, drawn: dict[str, bytes], status: str) -> None:
        """Record the end of the work: the last epochs, the scores, tags and files."""
        self.log_rows(contents.rows, contents.ended)
        self.server.describe(self._id, contents, self.parent)
        when = contents.ended or time.time()
        self.server.log(self._id, [(name, value, self.steps, when) for name, value in contents.scores.items()])
        self.server.send_files(self._id, contents.files, drawn)
        model = self.folder / "model.keras"
        if self.config.mlflow_model and model.is_file():
            self.server.send_model(self._id, model)
        self.server.set_status(self._id, status, contents.ended)
        self._note(self._id, sent=status != "RUNNING")

    @property
    def _id(self) -> str:
        assert self.run_id is not None
        return self.run_id


def send_run(folder: Path, config: TrackingConfig) -> None:
    """Send what the folder of a run holds, whatever of it MLflow already has."""
    contents = read_contents(folder)
    log = RunLog(folder, config, contents)
    if contents.state is None:
        log.log_rows(contents.rows)  # it may go on
    else:
        log.finish(contents, run_pictures(folder), STATUS[contents.state])
