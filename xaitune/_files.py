"""Files written whole or not at all, and one clear error where the disk is full or the folder may not be written."""

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from xaitune.errors import RunError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and is removed otherwise.

    Raises RunError where the disk is full or the folder may not be written.
    """
    # It keeps the suffix, which Keras looks at, and no other thread or process writes to it.
    part = path.with_name(f".{os.getpid()}-{threading.get_ident()}.{path.name}")
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


def disk_error(error: OSError, path: Path | None = None) -> RunError:
    """One clear error for a write that failed."""
    if error.errno == errno.ENOSPC:
        which = f": {path} could not be written" if path else ""
        return RunError(f"The disk is full{which}. Free some space and give the same command again.")
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


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file, whole or not at all; returns where it is. Raises RunError."""
    path = Path(path)
    with writing(path) as part:
        part.write_bytes(content)
    return path
