"""Run folders: their kind, name, identity and lock, and how finished runs are found."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from xaitune._files import disk_error, read_json, write_json
from xaitune.config.fields import identity_of, later_defaults
from xaitune.config.settings import DataConfig, TrainConfig
from xaitune.errors import ConfigError, RunError, RunLockedError

LAYOUT = 2  # version of the layout of config.json, which names the folder's kind since 2
CONFIG = "config.json"
RESULT = "result.json"  # written last: a run is finished once it exists
KINDS = ("run", "sweep", "comparison", "advice", "collection", "drift")


def folder_kind(path: str | Path) -> str | None:
    """What a folder holds, finished or not: one of KINDS; None if it is none of these.

    Layout 1 does not record the kind. There, 'started' marks a sweep, and 'method' in the identity marks advice.
    Raises RunError for a damaged config.json.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_json(Path(folder) / "config.json", {"format": 2, "kind": "sweep"})
        ...     folder_kind(folder)
        'sweep'
    """
    file = Path(path) / CONFIG
    if not file.is_file():
        return None
    config = read_json(file)
    if "kind" in config:
        return config["kind"]
    if "started" in config:
        return "sweep"
    return "advice" if "method" in config.get("identity", {}) else "run"


def run_name(config: TrainConfig, *, with_rate: bool = False) -> str:
    """The default name of a run's folder, made of the settings that distinguish the runs of one sweep.

    Examples:
        >>> run_name(TrainConfig(freeze_through=3, optimizer="nag")), run_name(TrainConfig(), with_rate=True)
        ('freeze3-nag-seed0', 'freeze3-nag-lr0.001-seed0')
    """
    if is_linear(config):
        return "frozen-all-blocks" if config.head_blocks == "all" else "frozen-best-block"
    rate = f"-lr{config.rate:g}" if with_rate else ""
    blocks = f"train{config.trained_blocks}" if config.trained_blocks else f"freeze{config.freeze_through}"
    if config.architecture != "vgg16":
        blocks = config.architecture if config.from_scratch else f"{config.architecture}-{blocks}"
    return f"{blocks}-{config.optimizer}{rate}-seed{config.seed}"


def is_linear(config: TrainConfig) -> bool:
    """Whether a run is a linear head on frozen features, which is fitted at once, and nothing else is trained."""
    return config.head == "blocks" and config.freeze_through == 5 and not config.final_epochs


def run_identity(
    config: TrainConfig, data_config: DataConfig, fingerprint: str, weights: str, pixels: str = ""
) -> dict[str, Any]:
    """Everything that determines a run's result: two runs with equal identities are the same run.

    `weights`: the digest of the pretrained weights; `pixels`: that of the masks, of a segmentation.
    """
    train = identity_of(config) | {"learning_rate": config.rate}
    data = {"fingerprint": fingerprint, "image_size": list(data_config.image_size), "resize": data_config.resize}
    return {**train, **data, "weights": weights} | ({"pixels": pixels} if pixels else {})


def identity_difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Where two identities differ, such as 'epochs 20 -> 5, seed 0 -> 1'; '' if they are equal."""
    defaults = later_defaults(TrainConfig)
    old, new = defaults | old, defaults | new
    return ", ".join(f"{k} {old.get(k)} -> {new.get(k)}" for k in {**old, **new} if old.get(k) != new.get(k))


def check_name(name: str | None) -> None:
    """Raise ConfigError unless `name` can be the name of a folder, or is None."""
    if name is not None and (name != Path(name).name or name in ("", "..")):
        raise ConfigError(f"name must be a folder name without a path. Received: name={name!r}.")


def choose_folder(
    runs_dir: Path, base: str, name: str | None, identity: dict[str, Any], *, overwrite: bool
) -> tuple[Path, str]:
    """The folder for a run, and a note that explains the choice, or ''.

    If another configuration already has the default name `base`, -2, -3, ... is added to it. An explicit `name` that
    another configuration has is refused with the difference (RunError) unless `overwrite` is set, which empties it.
    """
    check_name(name)
    path, note, number = runs_dir / (name or base), "", 1
    while (path / CONFIG).is_file() and not overwrite:
        difference = identity_difference(read_json(path / CONFIG)["identity"], identity)
        if not difference:
            return path, note
        if name:
            raise RunError(
                f"{path} holds another configuration ({difference}). "
                "Choose another --name, or replace it (--overwrite, or remove the folder)."
            )
        number += 1
        note = f"{base} has another configuration ({difference}), so this one is {base}-{number}."
        path = runs_dir / f"{base}-{number}"
    return path, note


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a run folder's lock, which the operating system releases if the process dies. Raises RunLockedError."""
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


def start_folder(path: Path, kind: str, contents: dict[str, Any], *, overwrite: bool) -> None:
    """Write config.json (of a `kind` in KINDS, with its 'identity') into a folder whose lock is held.

    With `overwrite` the folder is emptied first, unless it holds the same run unfinished, which is then resumed. Raises
    RunLockedError if another process has taken the name since it was chosen.
    """
    file = path / CONFIG
    same = file.is_file() and read_json(file)["identity"] == contents["identity"]
    if overwrite and not (same and not is_finished(path)):
        for item in path.iterdir():
            if item.name != ".lock":
                shutil.rmtree(item) if item.is_dir() else item.unlink()
    elif file.is_file() and not same:
        raise RunLockedError(f"Another process has just started something else in {path}. Run the same command again.")
    for part in path.glob(".[0-9]*.*"):  # left by a process that was killed while writing
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
    if not file.is_file():
        write_json(file, {"format": LAYOUT, "kind": kind, **contents})


def is_finished(path: Path) -> bool:
    """Whether a run folder's run has ended (finished, diverged or stopped)."""
    return (path / RESULT).is_file()


def is_stopped(path: Path) -> bool:
    """Whether a run has ended because a sweep chose another learning rate."""
    return is_finished(path) and read_json(path / RESULT)["state"] == "stopped"


def find_runs(runs_dir: str | Path, fingerprint: str | None = None) -> list[Path]:
    """Finished runs with a model directly under `runs_dir`, newest first; with a `fingerprint`, only those on that data."""
    folders = [p.parent for p in Path(runs_dir).glob(f"*/{RESULT}") if (p.parent / CONFIG).is_file()]
    folders = [p for p in folders if (p / "model.keras").is_file()]
    if fingerprint:
        folders = [p for p in folders if read_json(p / CONFIG)["identity"]["fingerprint"] == fingerprint]
    return sorted(folders, key=lambda p: (p / RESULT).stat().st_mtime, reverse=True)
