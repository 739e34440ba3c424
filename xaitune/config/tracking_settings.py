"""The settings of experiment tracking, which say where a run is logged and never which run it is."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from xaitune.config.fields import check_fields, setting
from xaitune.config.rules import Flag, Parsed, Text
from xaitune.errors import ConfigError

LOCAL = "local"  # a database next to the runs
DATABASE = "mlflow.db"
SCHEMES = ("http", "https", "sqlite", "databricks")


def parse_tracking_uri(value: Any) -> str | None:
    """The address of an MLflow server, 'local', or None. Raises ConfigError.

    Examples:
        >>> parse_tracking_uri("http://127.0.0.1:5000/")
        'http://127.0.0.1:5000'
    """
    if value is None or value == LOCAL:
        return value
    try:
        parts = urlsplit(str(value))
    except ValueError:
        parts = urlsplit("")
    with_password = "@" in str(value) and parts.scheme != "sqlite"
    complete = bool(
        parts.netloc if parts.scheme.startswith("http") else parts.path.strip("/") or parts.scheme == "databricks"
    )
    if not with_password and (parts.scheme not in SCHEMES or not complete) and value != "databricks":
        raise ConfigError(
            f"mlflow must be 'local' or an address such as http://HOST:5000 or sqlite:///FILE. Received: mlflow={value!r}."
        )
    if with_password:
        raise ConfigError(
            "mlflow must not contain a password, which would be written to disk. "
            "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead."
        )
    return str(value).rstrip("/") if parts.scheme.startswith("http") else str(value)


@dataclass(frozen=True)
class TrackingConfig:
    """Where trainings are logged besides their own folders: TensorBoard event files, MLflow, both or nothing.

    `mlflow`: the address of a tracking server; 'local' is the SQLite file mlflow.db in the folder of the runs, with
    mlflow-artifacts next to it. `mlflow_model` uploads model.keras too; otherwise MLflow records where its folder is.

    >>> TrackingConfig(mlflow="http://127.0.0.1:5000").is_on
    True
    """

    tensorboard: bool = setting(
        False, Flag(), "Write TensorBoard event files into the folder of every run.", panel="Tracking"
    )
    mlflow: str | None = setting(
        None,
        Parsed(parse_tracking_uri, "local|URI"),
        "Log to MLflow: local for a file next to the runs, or a server's address such as http://HOST:5000.",
        panel="Tracking",
    )
    mlflow_experiment: str = setting(
        "xaitune", Text("a name", empty=False, metavar="NAME"), "Name of the experiment in MLflow.", panel="Tracking"
    )
    mlflow_model: bool = setting(
        False, Flag(), "Upload model.keras to MLflow too, instead of only the path of its folder.", panel="Tracking"
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def is_on(self) -> bool:
        """Whether anything is logged."""
        return self.tensorboard or self.mlflow is not None

    def located(self, runs_dir: str | Path) -> "TrackingConfig":
        """The same settings with the address of the database in `runs_dir` in place of 'local'."""
        if self.mlflow != LOCAL:
            return self
        return replace(self, mlflow=f"sqlite:///{(Path(runs_dir).absolute() / DATABASE).as_posix()}")
