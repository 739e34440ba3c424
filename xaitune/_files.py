"""Atomic file writes, with one clear error if the disk is full or the folder is not writable."""

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xaitune.errors import RunError

if TYPE_CHECKING:
    import pandas as pd


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`: it replaces `path` if the block succeeds, and is removed if it fails.

    Raises RunError if the disk is full or the folder is not writable.
    """
    # The name keeps the suffix, since Keras reads the format from it, and is unique to this process and thread.
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


def disk_error(error: OSError, path: Path | None = None, option: str = "--runs-dir") -> RunError:
    """The error to raise for a failed write; `option` names the place to write to."""
    if error.errno == errno.ENOSPC:
        which = f": {path} could not be written" if path else ""
        return RunError(f"The disk is full{which}. Free some space and run the same command again.")
    if isinstance(error, PermissionError):
        return RunError(f"No permission to write {path}. Choose another folder, for example with {option}.")
    return RunError(f"{path} could not be written ({error.strerror or error}). Choose another folder.")


def make_folder(path: Path) -> None:
    """Make a folder unless it exists. Raises RunError if it is not writable."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, path) from None
    if not os.access(path, os.W_OK):
        raise disk_error(PermissionError(), path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    with writing(path) as part:
        part.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def write_csv(path: Path, frame: "pd.DataFrame", encoding: str = "utf-8") -> None:
    """Write a CSV without its index, atomically."""
    with writing(path) as part:
        frame.to_csv(part, index=False, encoding=encoding)


def read_json(path: Path) -> Any:
    """Read JSON. Raises RunError, naming the file, if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is missing or damaged ({error}).") from None


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file atomically and return its path. Raises RunError."""
    path = Path(path)
    with writing(path) as part:
        part.write_bytes(content)
    return path
