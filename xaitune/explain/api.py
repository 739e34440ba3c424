"""Explain images by a method's name, and keep the result: pictures, raw maps and a list beside them."""

import dataclasses
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune.config.schema import check_method
from xaitune.data.images import resize_image
from xaitune.errors import ModelError, RunError
from xaitune.explain.cam import cam_mapper
from xaitune.explain.classifier import Images, Subject, open_subject
from xaitune.explain.gradcam import block_mapper, computing_model, heatmaps
from xaitune.explain.lime.explain import Fill, check_lime, lime_superpixels
from xaitune.explain.lime.fit import STABLE
from xaitune.plots import charts as plots
from xaitune.plots import figures, overlays
from xaitune.results import BlockHeatmaps, Superpixels
from xaitune.training import folder as runs

CHUNK = 32  # images held in memory at once
SHEET_ROWS = 12  # images on a contact sheet
SCORE_FILES = ("scores.csv", "scores.json", "scores.png")  # what `scorefiles` puts beside the maps
Explanation = BlockHeatmaps | Superpixels


def explain_images(
    model: Any,
    images: Images,
    *,
    method: str = "gradcam",
    blocks: Any = "all",
    class_name: str | None = None,
    rule: str = "gradcam",
    num_samples: int = 1000,
    segmenter: str = "quickshift",
    fill: Fill = "mean",
    exact: bool = False,
    seed: int = 0,
    precision: str = "auto",
) -> Explanation:
    """Explain images by 'gradcam' (`blocks`, `rule`), 'cam', or 'lime' (`num_samples`, `segmenter`,
    `fill`, `exact`, `seed`).

    The other arguments as in `gradcam_blocks`. For thousands of images use `iter_explanations`, which holds CHUNK at a
    time. Raises ModelError, ImageError, ConfigError.
    """
    subject = open_subject(model)
    array, files = subject.read(images)
    explain = explainer(subject, method, blocks, class_name, rule, num_samples, segmenter, fill, exact, seed, precision)
    return explain(array, files)


def explainer(
    subject: Subject,
    method: str,
    blocks: Any = "all",
    class_name: str | None = None,
    rule: str = "gradcam",
    num_samples: int = 1000,
    segmenter: str = "quickshift",
    fill: Fill = "mean",
    exact: bool = False,
    seed: int = 0,
    precision: str = "auto",
    progress: Callable[[str, int, int, str], None] | None = None,
) -> Callable[[np.ndarray, tuple[str, ...]], Explanation]:
    """A function (images at the model's size, names) -> explanation, made once for many batches.

    `progress` hears of LIME's samples: a file's name, how many are done, how many there may be, 'samples'.
    """
    check_method(method, blocks, None)
    index = subject.class_index(class_name)
    if method == "lime":
        check_lime(num_samples, segmenter, fill)

        def lime(array: np.ndarray, files: tuple[str, ...]) -> Superpixels:
            def told(number: int, done: int, total: int) -> None:
                if progress:
                    progress(Path(files[number]).name, done, total, "samples")

            made = lime_superpixels(
                subject,
                array,
                class_name=class_name,
                num_samples=num_samples,
                segmenter=segmenter,
                fill=fill,
                exact=exact,
                precision=precision,
                seed=seed,
                progress=told,
            )
            return dataclasses.replace(made, files=files)

        return lime
    try:
        computing, used = computing_model(subject.model, precision)
        mapper = cam_mapper(computing) if method == "cam" else block_mapper(computing, blocks, rule)
    except ModelError as error:
        raise ModelError(f"{subject.name}: {error}") from None

    def heat(array: np.ndarray, files: tuple[str, ...]) -> BlockHeatmaps:
        raw, logits = mapper(array, np.full(len(array), index, np.int32))
        return heatmaps(subject, method, raw, logits, array, files, index, rule, used)

    return heat


def iter_explanations(
    subject: Subject,
    paths: list[Path],
    explain: Callable[[np.ndarray, tuple[str, ...]], Explanation],
    size: int = CHUNK,
) -> Iterator[Explanation]:
    """Explanations of many files, at most `size` images in memory at a time."""
    for start in range(0, len(paths), size):
        part = paths[start : start + size]
        yield explain(subject.read_paths(part), tuple(str(p) for p in part))


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
            raise runs.disk_error(error, folder) from None

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
                panels = made.panels(i)
                self.titles = [f"Block {b}" for b in made.blocks] if isinstance(made, BlockHeatmaps) else []
                self.titles = ["image", *self.titles] if self.titles else [title for title, _ in panels]
                # Equal squares, so that files of any shape stand in columns.
                squares = [resize_image(picture, (160, 160), "pad") for _, picture in panels]
                self.sheet.append((f"{Path(file).stem} ({made.explained(i)})", squares))
        self.about["precision"] = made.precision
        number = len(self.tables)
        self.tables.append(made.to_dataframe())
        try:
            _append_npz(self.part, number, _arrays(made))
        except OSError as error:
            raise runs.disk_error(error, self.folder / "heatmaps.npz") from None

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
        found = [table.drop_duplicates("file") for table in self.tables if "top5_jaccard" in table]
        return sum(int(((t["spearman"] < STABLE[0]) | (t["top5_jaccard"] < STABLE[1])).sum()) for t in found)

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
            sheet = plots.contact_sheet(strips, labels, titles=self.titles)
            written["contact_sheet"] = str(figures.save(sheet, self.folder / "contact-sheet.png"))
        for name in SCORE_FILES:  # they would tell of the maps that stood here before
            (self.folder / name).unlink(missing_ok=True)
        rows = json.loads(table.to_json(orient="records", force_ascii=False))
        os.replace(self.part, self.folder / "heatmaps.npz")
        runs.write_json(self.folder / "explain.json", {**self.about, "chunks": len(self.tables), "maps": rows})
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
    about = runs.read_json(folder / "explain.json")
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
