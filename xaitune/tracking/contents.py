"""What the folder of a run, a sweep or a comparison says of itself, in the terms of a tracking server."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune._files import read_json
from xaitune.errors import RunError
from xaitune.plots import charts, figures

STAMP = ("stage", "epoch")  # columns of a history that are not metrics
HISTORY_GROUPS = {"train": "train", "val": "validation"}  # how a column begins -> its group; all others are in 'epoch'
EPOCH = "epoch/seconds"  # a metric that every epoch has
FILES = (  # sent from a folder that has them
    *("config.json", "metadata.json", "result.json", "history.csv", "model-card.md"),
    *("sweep.json", "sweep.csv", "check.json", "comparison.json", "comparison.csv", "report.html"),
)
STATUS = {"finished": "FINISHED", "diverged": "FAILED", "stopped": "KILLED"}  # a run's state -> MLflow's status
ELSEWHERE = ("fingerprint", "weights", "pixels", "image_size", "resize")  # parts of an identity that other fields show
NOTE_LENGTH = 4900  # characters; MLflow allows 5000 for a tag


@dataclass(frozen=True)
class Contents:
    """What a folder holds.

    `params`: setting -> value. `rows`: the history, one per epoch. `scores`: final metric -> value. `state`: that of a run
    that has ended; None before. `ended`: when, in seconds since 1970. `data`: (name, path, fingerprint) of the images.
    """

    folder: Path
    params: dict[str, str]
    tags: dict[str, str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    state: str | None = None
    ended: float | None = None
    data: tuple[str, str, str] = ("", "", "")

    @property
    def seconds(self) -> float:
        """The time that all epochs took."""
        return float(sum(row.get("seconds", 0.0) for row in self.rows))

    @property
    def files(self) -> list[Path]:
        """The files to send: what describes the work, and its pictures; the model and the predictions stay in the folder."""
        return [self.folder / name for name in FILES if (self.folder / name).is_file()] + sorted(
            self.folder.glob("*.png")
        )


@dataclass(frozen=True)
class Summary:
    """What is known of a sweep or a comparison besides its files: figures, tags, a note in Markdown, and drawn pictures."""

    scores: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    note: str = ""
    drawn: dict[str, bytes] = field(default_factory=dict)


NOTHING = Summary()


def read_contents(folder: Path, summary: Summary = NOTHING) -> Contents:
    """What a folder with a config.json holds, finished or not; `summary` is that of a sweep or a comparison.

    Raises RunError if a file is damaged.
    """
    config = read_json(folder / "config.json")
    result = read_json(folder / "result.json") if (folder / "result.json").is_file() else {}
    metadata = read_json(folder / "metadata.json") if (folder / "metadata.json").is_file() else {}
    identity, data = config["identity"], config.get("data", {})
    if "train" not in config or config.get("kind", "run") != "run" or "started" in config:
        params = {name: value for name, value in identity.items() if name not in ELSEWHERE}
    else:
        params = config["train"] | {"learning_rate": identity.get("learning_rate")}
    params |= {f"data.{name}": value for name, value in data.items()}
    card = folder / "model-card.md"
    note = summary.note or (card.read_text(encoding="utf-8") if card.is_file() else "")
    tags = {
        "mlflow.source.name": "xaitune",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": metadata.get("git_commit") or "",
        "mlflow.note.content": note[:NOTE_LENGTH],
        "xaitune.kind": config.get("kind", "run"),
        "xaitune.folder": str(folder.absolute()),
        "xaitune.data": identity["fingerprint"],
        "xaitune.weights": identity.get("weights", ""),
        "xaitune.state": result.get("state", ""),
        **{f"xaitune.{name}": str(value) for name, value in metadata.get("versions", {}).items()},
    }
    tags |= {f"xaitune.{name}": value for name, value in summary.tags.items()}
    path = str(data.get("path", ""))
    return Contents(
        folder=folder,
        params={name: _text(value) for name, value in params.items() if value is not None},
        tags={name: value for name, value in tags.items() if value},
        rows=read_rows(folder),
        scores=_final_scores(result) | summary.scores,
        state=result.get("state"),
        ended=(folder / "result.json").stat().st_mtime if result else None,
        data=(Path(path).name or "images", path, identity["fingerprint"]),
    )


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder's history.csv; none without one."""
    file = folder / "history.csv"
    try:
        return pd.read_csv(file).to_dict("records") if file.is_file() else []
    except (OSError, ValueError) as error:
        raise RunError(f"{file} is damaged ({error}).") from None


def metrics_of(row: dict[str, Any]) -> dict[str, float]:
    """The figures of a row of a history, without what is not finite: train/loss, validation/loss, epoch/seconds and so on.

    TensorBoard and MLflow show what has the same word before the slash together.

    Examples:
        >>> metrics_of({"epoch": 1, "train_loss": 0.5, "val_f1_macro": 0.25, "seconds": 2.0})
        {'train/loss': 0.5, 'validation/f1_macro': 0.25, 'epoch/seconds': 2.0}
    """
    values = {name: value for name, value in row.items() if name not in STAMP and isinstance(value, float | int)}
    return {_grouped(name): float(value) for name, value in values.items() if math.isfinite(value)}


def _grouped(column: str) -> str:
    """The name of a history's column with its group before a slash."""
    start, _, rest = column.partition("_")
    return f"{HISTORY_GROUPS[start]}/{rest}" if start in HISTORY_GROUPS else f"epoch/{column}"


def end_times(rows: list[dict[str, Any]], ended: float) -> list[float]:
    """When each epoch of a history ended, in seconds since 1970, if the last one ended at `ended`.

    Examples:
        >>> end_times([{"seconds": 5.0}, {"seconds": 2.0}], 100.0)
        [98.0, 100.0]
    """
    seconds = [float(row.get("seconds", 0.0)) for row in rows]
    return [ended - sum(seconds[number + 1 :]) for number in range(len(rows))]


def _final_scores(result: dict[str, Any]) -> dict[str, float]:
    """'final/test_f1_macro' and so on -> value, of the model that was kept; not of the training images."""
    found = {}
    for split in ("validation", "test"):
        for name, value in result.get("metrics", {}).get(split, {}).items():
            if isinstance(value, float | int) and math.isfinite(value):
                found[f"final/{split}_{name}"] = float(value)
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def run_pictures(folder: Path) -> dict[str, bytes]:
    """File name -> PNG of what is drawn of a run: its learning curves, and the confusion matrix of the test images."""
    config, history = read_json(folder / "config.json"), folder / "history.csv"
    drawn = {}
    if history.is_file():
        curves = {folder.name: pd.read_csv(history)}
        drawn["learning-curves.png"] = charts.learning_curves(curves, metric=config["train"]["metric"])
    test = read_json(folder / "result.json")["metrics"].get("test", {}) if (folder / "result.json").is_file() else {}
    counts = test.get("pixels", test.get("confusion"))
    if counts:
        drawn["confusion-matrix.png"] = charts.confusion_matrix(np.array(counts), config["class_names"])
    return {name: figures.png_bytes(axes, dpi=100) for name, axes in drawn.items()}
