"""Explanations on disk: pictures in a folder per class, the raw maps and a list, written batch by batch."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune._files import disk_error, read_json, write_json
from xaitune.data.resize import resize_image
from xaitune.errors import RunError
from xaitune.explain.api import Explanation
from xaitune.explain.heatmaps import BlockHeatmaps, Contributions
from xaitune.explain.lime.fit import STABLE
from xaitune.plots import figures, overlays
from xaitune.plots.pictures import contact_sheet

SHEET_ROWS = 12  # images on a contact sheet
SCORE_FILES = ("scores.csv", "scores.json", "scores.png")  # written by `evaluate.store` to the same folder


class ExplanationWriter:
    """Writes explanations batch by batch: <class>/<stem>.png, heatmaps.npz, explain.json and a contact sheet."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self.about = folder, dict(about)
        self.tables: list[pd.DataFrame] = []
        self.pictures: list[Path] = []
        self.sheet: list[tuple[str, list[np.ndarray]]] = []
        self.titles: list[str] = []
        self.blocks: tuple[int, ...] = ()
        self.bright = 0  # decisions that lean on the brightness of the image
        self.taken: set[str] = set()
        self.part = folder / f".{os.getpid()}.heatmaps.npz"  # renamed when it is complete
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.part.write_bytes(b"")
        except OSError as error:
            raise disk_error(error, folder) from None

    def __enter__(self) -> "ExplanationWriter":
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the unfinished file, however the work ended."""
        self.part.unlink(missing_ok=True)

    def add(self, explanation: Explanation) -> None:
        """Write one batch."""
        for i, file in enumerate(explanation.files):
            class_name = explanation.explained(i)
            path = self.folder / _safe(class_name) / f"{self._name(file)}.png"
            self.pictures.append(figures.save(explanation.plot(image=i), path))
            if len(self.sheet) < SHEET_ROWS:
                panels = explanation.panels(i)
                if isinstance(explanation, BlockHeatmaps):
                    self.blocks = explanation.blocks
                    self.titles = ["image", *(explanation.title(b) for b in explanation.blocks)]
                else:
                    self.titles = [title for title, _ in panels]
                # Equal squares, so that images of any shape line up in columns.
                squares = [resize_image(picture, (160, 160), "pad") for _, picture in panels]
                self.sheet.append((f"{Path(file).stem} ({class_name})", squares))
        self.about["precision"] = explanation.precision
        if isinstance(explanation, BlockHeatmaps) and explanation.contributions is not None:
            self.bright += int(explanation.contributions.leans_on_brightness.sum())
        number = len(self.tables)
        self.tables.append(explanation.to_dataframe())
        try:
            _append_npz(self.part, number, _arrays(explanation))
        except OSError as error:
            raise disk_error(error, self.folder / "heatmaps.npz") from None

    def _name(self, file: str) -> str:
        """A picture's name that is still free, from that of its image file."""
        stem = name = _safe(Path(file).stem)
        number = 1
        while name in self.taken:
            number += 1
            name = f"{stem}-{number}"
        self.taken.add(name)
        return name

    def empty_maps(self) -> int:
        """How many of the maps written so far are all zero."""
        return sum(int(table["is_zero"].sum()) for table in self.tables if "is_zero" in table)

    def unstable(self) -> int:
        """How many of the superpixel explanations written so far another draw of masks would probably not reproduce."""
        tables = [table.drop_duplicates("file") for table in self.tables if "top5_jaccard" in table]
        return sum(int(((t["spearman"] < STABLE[0]) | (t["top5_jaccard"] < STABLE[1])).sum()) for t in tables)

    def close(self) -> dict[str, Any]:
        """Write the list and the contact sheet; returns the paths written."""
        table = pd.concat(self.tables, ignore_index=True)
        written: dict[str, Any] = {"folder": str(self.folder), "pictures": len(self.pictures)}
        written["first_picture"] = str(self.pictures[0])
        (self.folder / "contact-sheet.png").unlink(missing_ok=True)
        if len(self.pictures) > 1:
            strips = [overlays.strip(row, height=160) for _, row in self.sheet]
            sheet = contact_sheet(strips, [label for label, _ in self.sheet], titles=self.titles)
            written["contact_sheet"] = str(figures.save(sheet, self.folder / "contact-sheet.png"))
        for name in SCORE_FILES:  # scores of maps that were here before
            (self.folder / name).unlink(missing_ok=True)
        rows = json.loads(table.to_json(orient="records", force_ascii=False))
        os.replace(self.part, self.folder / "heatmaps.npz")
        write_json(self.folder / "explain.json", {**self.about, "chunks": len(self.tables), "maps": rows})
        return written | {"json": str(self.folder / "explain.json"), "npz": str(self.folder / "heatmaps.npz")}


def _safe(name: str) -> str:
    """A class or file name without the characters that file systems forbid."""
    return "".join("_" if c in '<>:"/\\|?*' or ord(c) < 32 else c for c in name).strip(". ") or "_"


def _arrays(explanation: Explanation) -> dict[str, np.ndarray]:
    common = {name: getattr(explanation, name) for name in ("images", "classes", "probabilities")}
    if isinstance(explanation, BlockHeatmaps):
        added = explanation.contributions
        if added is not None:
            common |= {"added_by_means": added.means, "added_by_maxima": added.maxima, "constant": added.constant}
        return common | {f"block{b}": explanation.raw[b] for b in explanation.blocks}
    counts = np.array([len(w) for w in explanation.weights])
    weights = np.concatenate([w.T for w in explanation.class_weights])  # (superpixels of all images, classes)
    return common | {"segments": np.stack(explanation.segments), "counts": counts, "class_weights": weights}


def _append_npz(path: Path, number: int, arrays: dict[str, np.ndarray]) -> None:
    """Add arrays to an .npz as '<name>/<number>'; numpy itself can only write a whole .npz at once."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}/{number:05d}.npy", "w") as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def load_heatmaps(path: str | Path) -> BlockHeatmaps:
    """The heatmaps, by 'gradcam' or 'cam', in a folder of `xaitune explain` or in its heatmaps.npz. Raises RunError.

    Examples:
        >>> maps = load_heatmaps("runs/explain")  # doctest: +SKIP
        >>> maps.view[5].shape  # doctest: +SKIP
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    about = read_json(folder / "explain.json")
    if about["method"] == "lime":
        raise RunError(f"{folder} holds LIME superpixels, not heatmaps.")
    try:
        with np.load(folder / "heatmaps.npz", allow_pickle=False) as archive:
            keys = sorted(archive.files)  # '<name>/<number>'
            names = sorted({key.partition("/")[0] for key in keys})
            arrays = {name: np.concatenate([archive[k] for k in keys if k.startswith(f"{name}/")]) for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{folder / 'heatmaps.npz'} is missing or damaged ({error}).") from None
    raw = {int(name[5:]): maps for name, maps in arrays.items() if name.startswith("block")}
    files = tuple(row["file"] for row in about["maps"] if row["block"] == min(raw))
    return BlockHeatmaps(
        method=about["method"],
        raw=raw,
        images=arrays["images"],
        files=files,
        classes=arrays["classes"],
        class_names=tuple(about["class_names"]),
        probabilities=arrays["probabilities"],
        rule=about["rule"],
        resize=about.get("resize", "stretch"),
        precision=about.get("precision", "float32"),
        layers={row["block"]: row["layer"] for row in about["maps"] if "layer" in row},
        contributions=Contributions(
            arrays["added_by_means"], arrays["added_by_maxima"], arrays["constant"], tuple(sorted(raw))
        )
        if "constant" in arrays
        else None,
    )
