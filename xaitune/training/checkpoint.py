"""The last whole epoch of a run, in one file that is replaced whole."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from xaitune._files import writing


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
