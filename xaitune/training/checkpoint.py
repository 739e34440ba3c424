"""A run's checkpoint: its state after the last complete epoch."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from xaitune._files import writing


class Checkpoint:
    """A run's state after its last complete epoch, in one file replaced as a whole: arrays by name, and plain values."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "checkpoint" / "state.npz"

    def save(self, state: dict[str, Any], arrays: dict[str, list[np.ndarray]]) -> None:
        """Replace the checkpoint."""
        flat = {f"{key}/{i:04d}": a for key, values in arrays.items() for i, a in enumerate(values)}
        text = np.frombuffer(json.dumps(state).encode(), np.uint8)
        with writing(self.file) as part, part.open("wb") as file:
            np.savez(file, state=text, **flat)  # type: ignore[arg-type]

    def load(self) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]] | None:
        """(state, arrays), or None if there is no checkpoint or it cannot be read."""
        try:
            with np.load(self.file, allow_pickle=False) as archive:
                state = json.loads(archive["state"].tobytes())
                arrays: dict[str, list[np.ndarray]] = {}
                for key in sorted(k for k in archive.files if k != "state"):
                    arrays.setdefault(key.partition("/")[0], []).append(archive[key])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return state, arrays

    def remove(self) -> None:
        """Delete the checkpoint, when the run is finished."""
        shutil.rmtree(self.file.parent, ignore_errors=True)
