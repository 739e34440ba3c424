"""Explanations on disk: pictures by class, raw maps and a list beside them, written as they come."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune._files import disk_error, read_json, write_json
from xaitune.data.geometry import resize_image
from xaitune.errors import RunError
from xaitune.explain.api import Explanation
from xaitune.explain.heatmaps import BlockHeatmaps
from xaitune.explain.lime.fit import STABLE
from xaitune.plots import figures, overlays
from xaitune.plots.pictures import contact_sheet

SHEET_ROWS = 12  # images on a contact sheet
SCORE_FILES = ("scores.csv", "scores.json", "scores.png")  # what `evaluate.store` puts beside the maps


class ExplanationWriter:
    """Writes explanations as they come: <class>/<stem>.png, heatmaps.npz, explain.json and a contact sheet."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self.about = folder, dict(about)
        self.tables: list[pd.DataFrame] = []
        self.pictures: list[Path] = []
        self.sheet: list[tuple[str, list[np.ndarray]]] = []
        self.titles: list[str] = []
        self.taken: set[str] = set()
        self.part = folder / f".{os.getpid()}.heatmaps.npz"  # takes its name when all is there
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.part.write_bytes(b"")
        except OSError as error:
            raise disk_error(error, folder) from None

    def __enter__(self) -> "ExplanationWriter":
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no half-written file, however the work ended."""
        self.part.unlink(missing_ok=True)

    def add(self, made: Explanation) -> None:
        """Write one batch."""
        for i, file in enumerate(made.files):
            path = self.folder / _safe(made.explained(i)) / f"{self._name(file)}.png"
            self.pictures.append(figures.save(made.plot(image=i), path))
            if len(self.sheet) < SHEET_ROWS:
                shown = made.panels(i)
                self.titles = [f"Block {b}" for b in made.blocks] if isinstance(made, BlockHeatmaps) else []
                self.titles = ["image", *self.titles] if self.titles else [title for title, _ in shown]
                # Equal squares, so that files of any shape stand in columns.
                squares = [resize_image(picture, (160, 160), "pad") for _, picture in shown]
                self.sheet.append((f"{Path(file).stem} ({made.explained(i)})", squares))
        self.about["precision"] = made.precision
        number = len(self.tables)
        self.tables.append(made.to_dataframe())
        try:
            _append_npz(self.part, number, _arrays(made))
        except OSError as error:
            raise disk_error(error, self.folder / "heatmaps.npz") from None

    def _name(self, file: str) -> str:
        stem, name, number = _safe(Path(file).stem), _safe(Path(file).stem), 1
        while name in self.taken:
            number += 1
            name = f"{stem}-{number}"
        self.taken.add(name)
        return name

    def empty_maps(self) -> int:
        """How many of the maps written so far are all zero."""
        return sum(int(table["is_zero"].sum()) for table in self.tables if "is_zero" in table)

    def unstable(self) -> int:
        """How many of the superpixel explanations written so far another draw of masks would not confirm."""
        tables = [table.drop_duplicates("file") for table in self.tables if "top5_jaccard" in table]
        return sum(int(((t["spearman"] < STABLE[0]) | (t["top5_jaccard"] < STABLE[1])).sum()) for t in tables)

    def close(self) -> dict[str, Any]:
        """Write the list and the contact sheet; returns what was written."""
        table = pd.concat(self.tables, ignore_index=True)
        written: dict[str, Any] = {"folder": str(self.folder), "pictures": len(self.pictures)}
        written["first_picture"] = str(self.pictures[0])
        (self.folder / "contact-sheet.png").unlink(missing_ok=True)
        if len(self.pictures) > 1:
            strips, labels = (
                [overlays.strip(row, height=160) for _, row in self.sheet],
                [label for label, _ in self.sheet],
            )
            sheet = contact_sheet(strips, labels, titles=self.titles)
            written["contact_sheet"] = str(figures.save(sheet, self.folder / "contact-sheet.png"))
        for name in SCORE_FILES:  # they belong to the maps that stood here before
            (self.folder / name).unlink(missing_ok=True)
        rows = json.loads(table.to_json(orient="records", force_ascii=False))
        os.replace(self.part, self.folder / "heatmaps.npz")
        write_json(self.folder / "explain.json", {**self.about, "chunks": len(self.tables), "maps": rows})
        return written | {"json": str(self.folder / "explain.json"), "npz": str(self.folder / "heatmaps.npz")}


def _safe(name: str) -> str:
    """A file name from a class or file name."""
    return "".join("_" if c in '<>:"/\\|?*' or ord(c) < 32 else c for c in name).strip(". ") or "_"


def _arrays(made: Explanation) -> dict[str, np.ndarray]:
    common = {"images": made.images, "classes": made.classes, "probabilities": made.probabilities}
    if isinstance(made, BlockHeatmaps):
        return common | {f"block{b}": made.raw[b] for b in made.blocks}
    counts = np.array([len(w) for w in made.weights])
    weights = np.concatenate([w.T for w in made.class_weights])  # (superpixels of all images, classes)
    return common | {"segments": np.stack(made.segments), "counts": counts, "class_weights": weights}


def _append_npz(path: Path, number: int, arrays: dict[str, np.ndarray]) -> None:
    """Add arrays to an .npz as '<name>/<number>': numpy can only write a whole one."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}/{number:05d}.npy", "w") as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def load_heatmaps(path: str | Path) -> BlockHeatmaps:
    """The heatmaps of an explain folder (or of its heatmaps.npz), from 'gradcam' or 'cam'. Raises RunError."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    about = read_json(folder / "explain.json")
    if about["method"] == "lime":
        raise RunError(f"{folder} holds LIME superpixels, not heatmaps.")
    try:
        with np.load(folder / "heatmaps.npz", allow_pickle=False) as found:
            names = sorted({key.partition("/")[0] for key in found.files})
            joined = {
                n: np.concatenate([found[k] for k in sorted(found.files) if k.startswith(f"{n}/")]) for n in names
            }
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{folder / 'heatmaps.npz'} is missing or damaged ({error}).") from None
    raw = {int(n[5:]): joined[n] for n in names if n.startswith("block")}
    files = tuple(row["file"] for row in about["maps"] if row["block"] == min(raw))
    return BlockHeatmaps(
        method=about["method"],
        raw=raw,
        images=joined["images"],
        files=files,
        classes=joined["classes"],
        class_names=tuple(about["class_names"]),
        probabilities=joined["probabilities"],
        rule=about["rule"],
        resize=about.get("resize", "stretch"),
        precision=about.get("precision", "float32"),
    )
