"""Run folders: their names, locks, checkpoints, loading, and finding them again."""

import contextlib
import dataclasses
import datetime
import errno
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from xaitune.config.schema import EXECUTION_FIELDS, LATER_FIELDS, DataConfig, TrainConfig
from xaitune.errors import ConfigError, RunError, RunLockedError
from xaitune.models.vgg import load_model
from xaitune.results import Run

FORMAT = 1
RESULT = "result.json"  # written last: a run is finished when it is there
LATER = {f.name: f.default for f in dataclasses.fields(TrainConfig) if f.name in LATER_FIELDS}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and is removed otherwise.

    Raises RunError where the disk is full or the folder may not be written.
    """
    part = path.with_name(f".{os.getpid()}.{path.name}")  # keeps the suffix: Keras looks at it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            raise disk_error(error, path) from None
        raise


def disk_error(error: OSError, path: Path) -> RunError:
    """One clear error for a write that failed."""
    if error.errno == errno.ENOSPC:
        return RunError(
            f"The disk is full: {path} could not be written. Free some space and give the same command again."
        )
    if isinstance(error, PermissionError):
        return RunError(f"No permission to write {path}. Choose another folder, such as with --runs-dir.")
    return RunError(f"{path} could not be written ({error.strerror or error}). Choose another folder.")


def make_folder(path: Path) -> None:
    """Make a folder, or find it. Raises RunError where it may not be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, path) from None
    if not os.access(path, os.W_OK):
        raise disk_error(PermissionError(), path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    with writing(path) as part:
        part.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a CSV without its index, whole or not at all."""
    with writing(path) as part:
        frame.to_csv(part, index=False)


def read_json(path: Path) -> Any:
    """Read JSON; raises RunError naming the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is missing or damaged ({error}).") from None


def run_name(config: TrainConfig, *, with_rate: bool = False) -> str:
    """'freeze3-nag-seed0', or 'freeze3-nag-lr0.001-seed0': what distinguishes runs of one sweep."""
    rate = f"-lr{config.rate:g}" if with_rate else ""
    return f"freeze{config.freeze_through}-{config.optimizer}{rate}-seed{config.seed}"


def run_identity(config: TrainConfig, data_config: DataConfig, fingerprint: str, weights: str) -> dict[str, Any]:
    """All that decides a run's result: two runs with equal identities are the same run."""
    train = {k: v for k, v in dataclasses.asdict(config).items() if k not in EXECUTION_FIELDS | {"weights"}}
    train["learning_rate"] = config.rate
    train = {k: v for k, v in train.items() if k not in LATER or v != LATER[k]}
    data = {"fingerprint": fingerprint, "image_size": list(data_config.image_size), "resize": data_config.resize}
    return {**train, **data, "weights": weights}


def difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """'epochs 20 -> 5, seed 0 -> 1': where two identities differ."""
    old, new = LATER | old, LATER | new
    return ", ".join(f"{k} {old.get(k)} -> {new.get(k)}" for k in new if old.get(k) != new[k])


def choose_folder(
    runs_dir: Path, base: str, name: str | None, identity: dict[str, Any], *, overwrite: bool
) -> tuple[Path, str]:
    """The folder for a run, and a note on why it is that one.

    A made-up name that another configuration has taken gets -2, -3, ...; an explicit one is refused with the
    difference (RunError) unless `overwrite`, which empties it.
    """
    if name is not None and (name != Path(name).name or name in ("", "..")):
        raise ConfigError(f"name must be a folder's name without a path. Received: name={name!r}.")
    path, note, number = runs_dir / (name or base), "", 1
    while (path / "config.json").is_file() and not overwrite:
        told = difference(read_json(path / "config.json")["identity"], identity)
        if not told:
            return path, note
        if name:
            raise RunError(
                f"{path} holds another configuration ({told}). "
                "Choose another --name, or replace it (--overwrite, or remove the folder)."
            )
        number += 1
        note = f"{base} has another configuration ({told}), so this one is {base}-{number}."
        path = runs_dir / f"{base}-{number}"
    return path, note


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a run folder's lock, which the system releases when the process dies. Raises RunLockedError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise RunLockedError(f"Another process is working in {path}. Wait for it, or choose another --name.") from None
    except OSError as error:
        raise disk_error(error, path) from None
    try:
        yield
    finally:
        lock.release()


def start_folder(path: Path, contents: dict[str, Any], *, overwrite: bool) -> None:
    """Write config.json (with its 'identity') into a folder whose lock is held.

    With `overwrite` the folder is emptied first, unless it holds the same run unfinished, which then goes on. Raises
    RunLockedError where another process has taken the name since it was chosen.
    """
    file = path / "config.json"
    same = file.is_file() and read_json(file)["identity"] == contents["identity"]
    if overwrite and not (same and not is_finished(path)):
        for item in path.iterdir():
            if item.name != ".lock":
                shutil.rmtree(item) if item.is_dir() else item.unlink()
    elif file.is_file() and not same:
        raise RunLockedError(f"Another process has just begun something else in {path}. Give the same command again.")
    for part in path.glob(".[0-9]*.*"):  # what a killed process was writing
        part.unlink(missing_ok=True)
    if not file.is_file():
        write_json(file, {"format": FORMAT, **contents})


def is_finished(path: Path) -> bool:
    """True for a run folder whose run has ended (finished or diverged)."""
    return (path / RESULT).is_file()


class Checkpoint:
    """The last whole epoch of a run, in one file that is replaced whole: arrays by name, and a state of plain values."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "checkpoint" / "state.npz"

    def save(self, state: dict[str, Any], arrays: dict[str, list[np.ndarray]]) -> None:
        """Replace the checkpoint."""
        flat = {f"{key}/{i:04d}": a for key, values in arrays.items() for i, a in enumerate(values)}
        text = np.frombuffer(json.dumps(state).encode(), np.uint8)
        with writing(self.file) as part, part.open("wb") as file:
            np.savez(file, state=text, **flat)  # type: ignore[arg-type]

    def load(self) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]] | None:
        """(state, arrays), or None where there is no checkpoint or it cannot be read."""
        try:
            with np.load(self.file, allow_pickle=False) as found:
                state = json.loads(found["state"].tobytes())
                arrays: dict[str, list[np.ndarray]] = {}
                for key in sorted(k for k in found.files if k != "state"):
                    arrays.setdefault(key.partition("/")[0], []).append(found[key])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return state, arrays

    def remove(self) -> None:
        """Forget it: the run is finished."""
        shutil.rmtree(self.file.parent, ignore_errors=True)


def load_run(path: str | Path) -> Run:
    """A finished run from its folder. Raises RunError where it is missing, unfinished or damaged."""
    path = Path(path)
    if not is_finished(path):
        state = (
            "is not finished: give the same command again to go on"
            if (path / "config.json").is_file()
            else "holds no run"
        )
        raise RunError(f"{path} {state}.")
    config, result = read_json(path / "config.json"), read_json(path / RESULT)
    try:
        predictions = path / "predictions.csv"
        keep = {"file": str, "group": str, "true": str, "predicted": str, "split": str}
        return Run(
            path=path,
            config=train_config(config["train"]),
            data_config=DataConfig(**config["data"]),
            fingerprint=config["identity"]["fingerprint"],
            class_names=tuple(config["class_names"]),
            state=result["state"],
            history=pd.read_csv(path / "history.csv"),
            metrics=result["metrics"],
            predictions=pd.read_csv(predictions, dtype=keep, keep_default_na=False)
            if predictions.is_file()
            else pd.DataFrame(),
            metadata=read_json(path / "metadata.json"),
            loader=load_model,
        )
    except (KeyError, TypeError, OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}). Remove it and train again.") from None


def train_config(values: dict[str, Any]) -> TrainConfig:
    """A TrainConfig from the JSON of a run."""
    return TrainConfig(**values)


def find_runs(runs_dir: str | Path, fingerprint: str | None = None) -> list[Path]:
    """Finished single runs directly under `runs_dir`, the newest first; with a fingerprint, those on that data."""
    found = [p.parent for p in Path(runs_dir).glob(f"*/{RESULT}") if (p.parent / "config.json").is_file()]
    found = [p for p in found if (p / "model.keras").is_file()]
    if fingerprint:
        found = [p for p in found if read_json(p / "config.json")["identity"]["fingerprint"] == fingerprint]
    return sorted(found, key=lambda p: (p / RESULT).stat().st_mtime, reverse=True)


def git_commit() -> str | None:
    """The commit of the repository in the current folder, where there is one."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def now() -> str:
    """The current time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
