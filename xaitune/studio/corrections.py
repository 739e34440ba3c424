"""What a person says of labels, kept in label-fixes.csv, which `--label-fixes` reads."""

import shlex
import threading
from pathlib import Path
from typing import Any

import pandas as pd

from xaitune._files import write_csv
from xaitune.config.rules import require_choice
from xaitune.data.label_fixes import ACTIONS
from xaitune.data.listing import file_key
from xaitune.errors import DataError
from xaitune.training.folder import CONFIG
from xaitune.training.run import Run

FILE = "label-fixes.csv"
COLUMNS = (
    "file",
    "action",
    "new_class",
    "images",
)  # `images`, the folder that the files are in, is for the studio alone
UNDO = "none"


class Corrections:
    """The rows of label-fixes.csv in `runs_dir`; a file that a person has made or changed is read and added to."""

    def __init__(self, runs_dir: Path) -> None:
        self.path = runs_dir.resolve() / FILE
        self._lock = threading.Lock()

    def table(self) -> pd.DataFrame:
        """One row per marked image, all columns as text. Raises DataError for a file that is no such CSV."""
        if not self.path.is_file():
            return pd.DataFrame(columns=list(COLUMNS), dtype=str)
        try:
            table = pd.read_csv(self.path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path} cannot be read ({str(error).splitlines()[0]}). Mend or remove it.") from None
        if missing := [name for name in ("file", "action") if name not in table]:
            raise DataError(f"{self.path} lacks the column {missing[0]!r}. Mend or remove it.")
        return table.assign(**{name: "" for name in COLUMNS if name not in table})

    def rows(self) -> list[dict[str, str]]:
        """The marks as the page shows them, the last one first."""
        return self.table()[list(COLUMNS)].iloc[::-1].to_dict("records")

    def mark(self, run: Run, file: str, action: Any, new_class: Any = "") -> None:
        """Say that an image of a run is to keep its label, to have `new_class`, or to be left out; 'none' takes that back.

        Raises DataError for a class that the run lacks, and where the file is about the images of another folder.
        """
        require_choice("action", action, (*ACTIONS, UNDO))
        new_class = self._checked_class(run, new_class) if action == "relabel" else ""
        folder = str(run.image_folder.resolve())
        with self._lock:
            table = self.table()
            others = set(table["images"]) - {"", folder}
            if others:
                raise DataError(
                    f"{self.path} is about the images in {others.pop()}. Rename it to mark those in {folder}."
                )
            table = table[table["file"].map(file_key) != file_key(file)]
            if action != UNDO:
                row = dict.fromkeys(table, "") | dict(zip(COLUMNS, (file, action, new_class, folder), strict=True))
                table = pd.concat([table, pd.DataFrame([row])], ignore_index=True)
            if len(table):
                write_csv(self.path, table)
            else:  # a CSV without rows is refused by those that read it
                self.path.unlink(missing_ok=True)

    def _checked_class(self, run: Run, new_class: Any) -> str:
        if run.config.segments:
            raise DataError("A segmentation learns from masks: an image can be kept or left out, but has no class.")
        if new_class not in run.class_names:
            raise DataError(f"The new class must be one of {', '.join(run.class_names)}. Received: {new_class!r}.")
        return new_class

    def command(self, run: Run) -> str:
        """The command that trains a run again with the corrected labels."""
        words = ["xaitune", "train", "--config", str(run.path / CONFIG), "--runs-dir", str(self.path.parent)]
        return shlex.join([*words, "--label-fixes", str(self.path)])

    def warning(self, run: Run) -> str:
        """What the command would lose, or ''."""
        earlier = run.data_config.label_fixes
        if not earlier or Path(earlier).resolve() == self.path:
            return ""
        return f"This run was trained with the label fixes in {earlier}, which the command replaces: add its rows to this file."
