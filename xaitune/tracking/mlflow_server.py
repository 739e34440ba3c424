"""The connection to MLflow: a tracking server or an SQLite file, asked with short time limits."""

import contextlib
import importlib
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from xaitune.tracking.contents import Contents

SECONDS = 5  # after which a request has failed
MODEL_SECONDS = 600  # for a model file
BATCH = 500  # metrics per request; MLflow allows 1000
PARENT = "mlflow.parentRunId"
ENVIRONMENT = {  # for MLflow, unless the user has set it
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(SECONDS),
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # its own reports on how it is used
}
DEADLINE = [math.inf]  # time.monotonic() after which no request is made
CAUSES = ("Connection refused", "timed out", "Name or service not known", "Temporary failure in name resolution")


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Refuse requests within this block once so much time has passed: a slow server answers each of them in time."""
    before, DEADLINE[0] = DEADLINE[0], time.monotonic() + seconds
    try:
        yield
    finally:
        DEADLINE[0] = before


@contextlib.contextmanager
def _calling(seconds: int = SECONDS) -> Iterator[None]:
    """Around every call of MLflow: its environment and the level of its messages, which are put back afterwards."""
    if time.monotonic() > DEADLINE[0]:
        raise TimeoutError("timed out: the server is too slow")
    values = ENVIRONMENT | {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds)}
    added = {name: value for name, value in values.items() if name not in os.environ}
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    os.environ.update(added)
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def reason_of(error: BaseException) -> str:
    """Why a call of MLflow failed, in a few words."""
    text = str(error)
    known = [cause for cause in CAUSES if cause in text]
    first = text.splitlines()[0] if text else type(error).__name__
    return known[0] if known else first[:160]


class Server:
    """MLflow at an address. Every method may raise whatever MLflow and the network raise."""

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri = uri
        with _calling():
            self.mlflow = importlib.import_module("mlflow")
            logging.getLogger("mlflow").setLevel(logging.ERROR)  # its import has set another level
            self.entities = importlib.import_module("mlflow.entities")
            self.client: Any = self.mlflow.MlflowClient(tracking_uri=uri)
            self.experiment = self._experiment(experiment)

    def _experiment(self, name: str) -> str:
        """The id of the experiment, which is made if there is none; of an SQLite file with its artifacts next to it."""
        known = self.client.get_experiment_by_name(name)
        if known is not None:
            return known.experiment_id
        place = None
        if self.uri.startswith("sqlite:///"):
            place = (Path(self.uri.removeprefix("sqlite:///")).absolute().parent / "mlflow-artifacts").as_uri()
        try:
            return self.client.create_experiment(name, artifact_location=place)
        except self.mlflow.exceptions.MlflowException:
            known = self.client.get_experiment_by_name(name)  # another process may have made it meanwhile
            if known is None:
                raise
            return known.experiment_id

    def has(self, run_id: str) -> bool:
        """Whether the run is there and not deleted."""
        with _calling():
            try:
                return self.client.get_run(run_id).info.lifecycle_stage == "active"
            except self.mlflow.exceptions.MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return False
                raise

    def create(self, contents: Contents, parent: str | None) -> str:
        """Make a run and return its id."""
        start = (contents.ended or time.time()) - contents.seconds
        tags = contents.tags | ({PARENT: parent} if parent else {})
        with _calling():
            made = self.client.create_run(
                self.experiment, start_time=int(1000 * start), tags=tags, run_name=contents.folder.name
            )
            return made.info.run_id

    def describe(self, run_id: str, contents: Contents, parent: str | None) -> None:
        """Record the settings and the images of a run, its tags as they are now, and the run that contains it."""
        name, path, fingerprint = contents.data
        source = json.dumps({"uri": path})
        dataset = self.entities.Dataset(name=name, digest=fingerprint, source_type="local", source=source)
        context = self.entities.InputTag("mlflow.data.context", "training")
        tags = contents.tags | ({PARENT: parent} if parent else {})
        with _calling():
            self.client.log_batch(
                run_id,
                params=[self.entities.Param(key, value[:6000]) for key, value in contents.params.items()],
                tags=[self.entities.RunTag(key, value) for key, value in tags.items()],
            )
            self.client.log_inputs(run_id, [self.entities.DatasetInput(dataset, [context])])

    def log(self, run_id: str, values: Sequence[tuple[str, float, int, float]]) -> None:
        """Record figures: (name, value, step, time in seconds since 1970)."""
        metrics = [self.entities.Metric(name, value, int(1000 * when), step) for name, value, step, when in values]
        with _calling():
            for first in range(0, len(metrics), BATCH):
                self.client.log_batch(run_id, metrics=metrics[first : first + BATCH])

    def last_step(self, run_id: str, name: str) -> int:
        """The last step that a metric has; 0 without any."""
        with _calling():
            return max((metric.step for metric in self.client.get_metric_history(run_id, name)), default=0)

    def send_files(self, run_id: str, files: Sequence[Path], drawn: dict[str, bytes]) -> None:
        """Upload files, and pictures by file name."""
        with tempfile.TemporaryDirectory() as folder:
            for name, content in drawn.items():
                (Path(folder) / name).write_bytes(content)
            for file in (*files, *sorted(Path(folder).iterdir())):
                with _calling():
                    self.client.log_artifact(run_id, str(file))

    def send_model(self, run_id: str, file: Path) -> None:
        """Upload a model file, which may take long."""
        with _calling(MODEL_SECONDS):
            self.client.log_artifact(run_id, str(file))

    def set_status(self, run_id: str, status: str, ended: float | None = None) -> None:
        """Set a run's status: RUNNING, or another one with the time at which it ended."""
        with _calling():
            if status == "RUNNING":
                self.client.update_run(run_id, status=status)
            else:
                self.client.set_terminated(run_id, status=status, end_time=int(1000 * (ended or time.time())))
