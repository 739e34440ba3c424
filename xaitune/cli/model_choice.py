"""Which model a command looks at, decided once: the one that is named, or the newest there is."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xaitune._files import read_json
from xaitune._progress import Notes
from xaitune.errors import ConfigError, XaituneWarning, unknown_class
from xaitune.training.folder import CONFIG, RESULT, find_runs, folder_kind


@dataclass(frozen=True)
class ModelChoice:
    """A run's folder, a sweep's (the run that it recommends), a .keras or .h5 file, or None: VGG16 with its ImageNet classes.

    `line` says which and why, '' for a model that was named.
    """

    path: Path | None
    line: str = ""

    def check_class(self, class_name: str | None) -> None:
        """Refuse a class that the model lacks before anything slow happens, where a config.json tells."""
        if class_name is None or self.path is None or not (self.path / CONFIG).is_file():
            return
        known = read_json(self.path / CONFIG).get("class_names", [class_name])
        if class_name not in known:
            raise unknown_class(class_name, known)

    @property
    def bit_depth(self) -> int | None:
        """That of the images that a run or a sweep was trained on."""
        if self.path is None or not (self.path / CONFIG).is_file():
            return None
        return read_json(self.path / CONFIG).get("data", {}).get("bit_depth")

    @property
    def pixel_classes(self) -> str | None:
        """What the values in the masks of its images mean, of a run or a sweep."""
        if self.path is None or not (self.path / CONFIG).is_file():
            return None
        return read_json(self.path / CONFIG).get("data", {}).get("pixel_classes")

    def run(self, say: Notes, *, with_heatmap: bool = False) -> Any:
        """The Run in the folder that was named, or the one that a sweep recommends; `say` is called with a line on which it is.

        `with_heatmap`: of a sweep no linear head, which gives no heatmaps in an exported file. Raises ConfigError for a file,
        RunError.
        """
        from xaitune.training.run import load_run

        if self.path is None or not self.path.is_dir():
            raise ConfigError(f"Give a finished run's folder: 'xaitune runs' lists them. Received: {self.path}.")
        if folder_kind(self.path) != "sweep":
            return load_run(self.path)
        return load_run(_recommended(self.path, say, with_heatmap))

    def open(self, say: Notes, **options: Any) -> Any:
        """The Classifier; `say` is called with a line on which model it is, `options` are those of `open_classifier`.

        Raises ModelError, RunError.
        """
        from xaitune.explain.classifier import Classifier, open_classifier
        from xaitune.models.vgg import IMAGENET, imagenet_classifier

        if self.line:
            say(self.line)
        if self.path is None or self.path.is_dir():
            for name, value in options.items():
                if value not in (None, "auto"):
                    raise ConfigError(
                        f"{name} is for a model of your own, with --model FILE. Received: {name}={value!r} for "
                        f"{self.path or 'ImageNet'}."
                    )
        if self.path is None:
            model, names = imagenet_classifier()
            return Classifier(model, tuple(names), name=IMAGENET)
        if self.path.is_dir() and folder_kind(self.path) == "sweep":
            return open_classifier(self.run(say))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", XaituneWarning)  # the command warns itself, with evidence
            return open_classifier(self.path, **options)


def _recommended(sweep: Path, say: Notes, with_heatmap: bool) -> Path:
    """The folder of the run that a sweep recommends; `say` is called with a line on which it is and why."""
    from xaitune.advise.check import own_check
    from xaitune.advise.recommended import recommended_model
    from xaitune.comparison.so_far import so_far_text
    from xaitune.report.next_steps import load_finished_runs

    table = load_finished_runs(sweep)
    check = own_check(table)
    first, chosen = recommended_model(table, check), recommended_model(table, check, trained=with_heatmap)
    assert first is not None
    assert chosen is not None
    folder, unfinished = table.folder(chosen.run), so_far_text(sweep)
    which = f"the sweep {sweep} recommends it: {chosen.title} ({chosen.why})"
    if chosen != first:
        which = f"{chosen.title} ({chosen.why}). The sweep {sweep} recommends {first.title}, "
        which += "which gives no heatmaps in an exported file"
    say(f"Model: {folder}; {which}" + (f". The sweep is not finished: {unfinished}" if unfinished else ""))
    return folder


def choose_model(named: str | Path | None, runs_dir: Path) -> ModelChoice:
    """The model to explain: the one `named`, else the newest run, else the one that the newest sweep recommends, else VGG16.

    Raises ConfigError for a folder without a finished run.
    """
    if named:
        path = Path(named)
        if not path.exists():
            near = f" Did you mean {runs_dir / path}?" if (runs_dir / path).exists() else ""
            raise ConfigError(f"No model at {path}. 'xaitune runs' lists the finished runs and sweeps.{near}")
        kind = folder_kind(path) if path.is_dir() else None
        if (
            path.is_dir()
            and not (path / "saved_model.pb").is_file()
            and kind != "sweep"
            and not (path / RESULT).is_file()
        ):
            what = "is not finished" if kind == "run" else f"is {kind}, not a run" if kind else "holds no run"
            raise ConfigError(f"{path} {what}. Give a finished run's folder: 'xaitune runs' lists them.")
        return ModelChoice(path)
    runs = find_runs(runs_dir)
    if runs:
        return ModelChoice(runs[0], f"Model: {runs[0]}, the newest finished run")
    from xaitune.comparison.table import find_sweep

    sweep = find_sweep(runs_dir)
    if sweep:
        return ModelChoice(sweep)
    return ModelChoice(None, "Model: VGG16 with its ImageNet classes, since there is no finished run here")
