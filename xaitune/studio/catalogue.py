"""The runs below a folder and their images, found by name: what a request names is looked up, and never used as a path."""

import math
from pathlib import Path
from typing import Any

from xaitune._names import frozen_name, metric_name
from xaitune.errors import InputError, XaituneError
from xaitune.training.folder import RESULT, find_runs, is_linear
from xaitune.training.run import Run, load_run


class NotServed(InputError):
    """Something that is not there, or that lies outside the folders that are served."""


class Catalogue:
    """Finished runs of `runs_dir`, newest first, then those of its sweeps and comparisons ('sweep/freeze3-nag-seed0')."""

    def __init__(self, runs_dir: Path) -> None:
        self.runs_dir = runs_dir.resolve()
        self._loaded: dict[str, tuple[float, Run]] = {}

    def paths(self) -> dict[str, Path]:
        """Run name -> folder."""
        folders = [self.runs_dir, *sorted(self.runs_dir.glob("*/")), *sorted(self.runs_dir.glob("*/*/"))]
        found = [path for folder in folders for path in find_runs(folder)]
        return {path.relative_to(self.runs_dir).as_posix(): path for path in found}

    def run(self, name: Any) -> Run:
        """The run of that name, kept until it is trained again. Raises NotServed."""
        if not isinstance(name, str):
            raise NotServed(f"A run must be named. Received: {name!r}.")
        if name in self._loaded and self._loaded[name][0] == _changed(self._loaded[name][1].path):
            return self._loaded[name][1]
        path = self.paths().get(name)
        if path is None:
            raise NotServed(f"There is no finished run {name!r} in {self.runs_dir}.")
        self._loaded[name] = (_changed(path), load_run(path))
        return self._loaded[name][1]

    def summaries(self) -> tuple[list[dict[str, Any]], list[str]]:
        """What the page shows of each run, and what is wrong with those that cannot be read."""
        shown, problems = [], []
        for name in self.paths():
            try:
                shown.append(_summary(name, self.run(name)))
            except XaituneError as error:
                problems.append(str(error))
        return shown, problems

    def images(self, name: Any) -> list[dict[str, Any]]:
        """A run's images: file, split, true and predicted class, whether that is right, and the model's confidence."""
        rows = self.run(name).predictions.to_dict("records")
        return [
            {
                "file": row["file"],
                "split": row["split"],
                "true": row["true"],
                "predicted": row["predicted"],
                "right": row["true"] == row["predicted"],
                "confidence": row.get(f"p({row['predicted']})", row.get("iou")),
            }
            for row in rows
        ]

    def row(self, name: Any, file: Any) -> dict[str, Any]:
        """What a run says of one of its images. Raises NotServed for a file that is not in its predictions."""
        table = self.run(name).predictions
        rows = table[table["file"] == file] if isinstance(file, str) else table[:0]
        if not len(rows):
            raise NotServed(f"The run {name} has no image {file!r}.")
        return rows.iloc[0].to_dict()

    def image_path(self, name: Any, file: Any) -> Path:
        """The path of one of a run's images. Raises NotServed, also for a file that a link or '..' puts elsewhere."""
        self.row(name, file)
        root = self.run(name).image_folder.resolve()
        path = (root / file).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            raise NotServed(f"There is no image {file!r} in {root}.")
        return path


def _changed(path: Path) -> float:
    """When a run was finished; NaN, which equals nothing, where it is gone."""
    try:
        return (path / RESULT).stat().st_mtime
    except FileNotFoundError:
        return math.nan


def _summary(name: str, run: Run) -> dict[str, Any]:
    config = run.config
    linear_head = config.head in ("gap", "blocks") and not config.segments and not config.from_scratch
    return {
        "name": name,
        "about": _about(run),
        "score": f"{metric_name(config.metric)} {run.score():.3f}",
        "classes": list(run.class_names),
        "segments": config.segments,
        "methods": ["gradcam", *(["cam"] if linear_head else []), *([] if config.segments else ["lime"])],
        "depth": None if config.from_scratch else config.freeze_through,
        "optimizer": config.optimizer,
        "epochs": config.epochs,
        "images": str(run.image_folder.resolve()),
    }


def _about(run: Run) -> str:
    """A run in a few words."""
    config = run.config
    what = "linear head on frozen features" if is_linear(config) else f"{frozen_name(config.freeze_through)} frozen"
    if config.from_scratch:
        what = config.architecture
    elif config.trained_blocks:
        what = f"only Block {config.trained_blocks} trained"
    kind = ", segmentation" if config.segments else ""
    return what + kind
