"""Explanations on disk: pictures in a folder per class, the raw maps and a list, written batch by batch."""

import dataclasses
import json
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from xaitune._files import disk_error, read_json, write_csv, write_json, writing
from xaitune.config.explain_settings import BoxOptions
from xaitune.data.resize import resize_image
from xaitune.errors import RunError, RunLockedError
from xaitune.explain.api import Explanation
from xaitune.explain.boxes import Boxes, boxes_from_maps, join_boxes
from xaitune.explain.heatmaps import COLOURS as MAP_COLOURS
from xaitune.explain.heatmaps import BlockHeatmaps, Contributions
from xaitune.explain.lime.fit import STABLE
from xaitune.explain.lime.result import COLOURS as SUPERPIXEL_COLOURS
from xaitune.explain.map_checks import checks_of_rows
from xaitune.plots import figures, overlays
from xaitune.plots.pictures import contact_sheet

UNFINISHED = ".unfinished"  # folder of the batches that are made, until all are
SHEET_ROWS = 12  # images on a contact sheet
SIGN = "The sign marks maps that should not be relied on; the single pictures and explain.json say why."
BOX_FILES = ("boxes.csv", "boxes.json")
BOX_SCORE_FILES = ("box-scores.csv", "box-scores.json")  # written by `evaluate.detection` to the same folder
SCORE_FILES = ("scores.csv", "scores.json", "scores.png")  # written by `evaluate.store` to the same folder


class ExplanationWriter:
    """Writes explanations batch by batch: <class>/<stem>.png, heatmaps.npz, explain.json and a contact sheet.

    Every batch is kept below UNFINISHED until `close`. With the same `identity` (all that determines the explanations, and
    the order of the images), a later writer finds the batches of one that was interrupted: `done` says how many, and the
    caller goes on after them. Without one nothing is found. With `boxes`, the regions of the heatmaps get boxes, in the
    pictures, boxes.csv and boxes.json.
    """

    def __init__(
        self,
        folder: Path,
        about: dict[str, Any],
        identity: dict[str, Any] | None = None,
        boxes: BoxOptions | None = None,
    ) -> None:
        self.folder, self.about, self.box_options = folder, dict(about), boxes
        self.boxes: list[Boxes] = []  # of each batch
        self.tables: list[pd.DataFrame] = []
        self.pictures: list[Path] = []
        self.sheet: list[tuple[str, list[np.ndarray]]] = []
        self.titles: list[str] = []
        self.blocks: tuple[int, ...] = ()
        self.bright = 0  # decisions that lean on the brightness of the image
        self.taken: set[str] = set()
        self.unfinished = folder / UNFINISHED
        self.kept = identity is not None  # for a later writer, if this one does not come to its end
        self.lock = FileLock(self.unfinished / ".lock", timeout=0)
        try:
            self.unfinished.mkdir(parents=True, exist_ok=True)
            self.lock.acquire()
            if identity is None or not self._is_of(identity):
                for file in self.unfinished.glob("[0-9]*.npz"):
                    file.unlink()
            write_json(self.unfinished / "identity.json", identity)
        except Timeout:
            raise RunLockedError(
                f"Another process is writing to {folder}. Wait for it, or choose another --out."
            ) from None
        except OSError as error:
            raise disk_error(error, folder) from None
        while (file := self._file(len(self.tables))).is_file():
            self._load(file)
        self.done = len(self.tables)

    def __enter__(self) -> "ExplanationWriter":
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the batches for a later call that may take them over."""
        if not (self.tables and self.kept):
            shutil.rmtree(self.unfinished, ignore_errors=True)
        self.lock.release()

    def _is_of(self, identity: dict[str, Any]) -> bool:
        file = self.unfinished / "identity.json"
        return file.is_file() and read_json(file) == json.loads(json.dumps(identity))

    def _file(self, number: int) -> Path:
        return self.unfinished / f"{number:05d}.npz"

    def add(self, explanation: Explanation, true_boxes: Sequence[np.ndarray | None] | None = None) -> None:
        """Write one batch; `true_boxes`: for each image (k, 4) x, y, width, height in pixels of its file, to be drawn too."""
        boxes = None
        if self.box_options is not None and isinstance(explanation, BlockHeatmaps):
            boxes = boxes_from_maps(explanation, **dataclasses.asdict(self.box_options))
        pictures: list[Path] = []
        sheet: list[tuple[str, list[np.ndarray]]] = []
        for i, file in enumerate(explanation.files):
            class_name = explanation.explained(i)
            path = self.folder / _safe(class_name) / f"{self._name(file)}.png"
            drawn: dict[str, Any] = {} if boxes is None else _drawn(boxes, i, true_boxes)
            pictures.append(figures.save(explanation.plot(image=i, **drawn), path))
            if len(self.sheet) + len(sheet) < SHEET_ROWS:
                panels = explanation.panels(i, **drawn)
                if isinstance(explanation, BlockHeatmaps):
                    self.titles = ["image", *(explanation.title(b) for b in explanation.blocks)]
                else:
                    self.titles = [title for title, _ in panels]
                # Equal squares, so that images of any shape line up in columns.
                squares = [resize_image(picture, (160, 160), "pad") for _, picture in panels]
                sheet.append((f"{Path(file).stem}\n{explanation.answer(i)}", squares))
        bright = 0
        if isinstance(explanation, BlockHeatmaps):
            self.blocks = explanation.blocks
            if explanation.contributions is not None:
                bright = int(explanation.contributions.leans_on_brightness.sum())
        self.about["precision"] = explanation.precision
        table = explanation.to_dataframe()
        if isinstance(explanation, BlockHeatmaps):
            images = range(len(explanation))
            table["doubts"] = [list(explanation.doubts(i, b)) for b in explanation.blocks for i in images]
        record = {
            "precision": explanation.precision,
            "pictures": [str(path.relative_to(self.folder)) for path in pictures],
            "rows": json.loads(table.to_json(orient="records", force_ascii=False)),
            "labels": [label for label, _ in sheet],
            "titles": self.titles,
            "blocks": list(self.blocks),
            "layers": list(explanation.layers.items()) if isinstance(explanation, BlockHeatmaps) else [],
            "bright": bright,
            "boxes": None if boxes is None else [boxes.table.to_dict("list"), boxes.images.to_dict("list")],
        }
        arrays = _arrays(explanation) | {"record": np.frombuffer(json.dumps(record).encode(), np.uint8)}
        if sheet:
            arrays["sheet"] = np.stack([np.stack(squares) for _, squares in sheet])
        with writing(self._file(len(self.tables))) as part, part.open("wb") as out:
            np.savez(out, **arrays)  # type: ignore[arg-type]
        self._keep(record, table, sheet)

    def _load(self, file: Path) -> None:
        """Take a batch that an interrupted writer has left."""
        with np.load(file, allow_pickle=False) as archive:
            record = json.loads(archive["record"].tobytes())
            squares = archive["sheet"] if record["labels"] else ()
        self.about["precision"], self.titles = record["precision"], record["titles"]
        self.blocks = tuple(record["blocks"])
        self.taken |= {Path(name).stem for name in record["pictures"]}
        sheet = [(label, list(row)) for label, row in zip(record["labels"], squares, strict=True)]
        self._keep(record, pd.DataFrame(record["rows"]), sheet)

    def _keep(self, record: dict[str, Any], table: pd.DataFrame, sheet: list[tuple[str, list[np.ndarray]]]) -> None:
        self.pictures += [self.folder / name for name in record["pictures"]]
        self.bright += record["bright"]
        if self.box_options is not None and record["boxes"] is not None:
            table_of_boxes, images = map(pd.DataFrame, record["boxes"])
            names, layers = tuple(self.about["class_names"]), dict(record["layers"])
            self.boxes.append(Boxes(table_of_boxes, images, self.blocks, names, self.box_options, layers))
        self.sheet += sheet
        self.tables.append(table)

    def _remove_old_pictures(self) -> None:
        """Remove the pictures of the result that this one replaces, unless they have been drawn again."""
        file = self.folder / "explain.json"
        for name in read_json(file).get("pictures", []) if file.is_file() else []:
            if self.folder / name not in self.pictures:
                (self.folder / name).unlink(missing_ok=True)

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

    def doubts(self) -> list[list[str]]:
        """What speaks against relying on each of the heatmaps written so far (`map_checks.DOUBTS`)."""
        return [each for table in self.tables if "doubts" in table for each in table["doubts"]]

    def unstable(self) -> int:
        """How many of the superpixel explanations written so far another draw of masks would probably not reproduce."""
        tables = [table.drop_duplicates("file") for table in self.tables if "top5_jaccard" in table]
        return sum(int(((t["spearman"] < STABLE[0]) | (t["top5_jaccard"] < STABLE[1])).sum()) for t in tables)

    def all_boxes(self) -> Boxes:
        """The boxes of all images written so far."""
        return join_boxes(self.boxes)

    def close(self) -> dict[str, Any]:
        """Write the list and the contact sheet; returns the paths written."""
        table = pd.concat(self.tables, ignore_index=True)
        written: dict[str, Any] = {"folder": str(self.folder), "pictures": len(self.pictures)}
        written["first_picture"] = str(self.pictures[0])
        (self.folder / "contact-sheet.png").unlink(missing_ok=True)
        if len(self.pictures) > 1:
            strips = [overlays.strip(row, height=160) for _, row in self.sheet]
            colours = SUPERPIXEL_COLOURS if self.about["method"] == "lime" else MAP_COLOURS
            caption = f"{colours}\n{SIGN}" if any(self.doubts()) else colours
            sheet = contact_sheet(strips, [label for label, _ in self.sheet], titles=self.titles, caption=caption)
            written["contact_sheet"] = str(figures.save(sheet, self.folder / "contact-sheet.png"))
        self._remove_old_pictures()
        for name in (*BOX_FILES, *BOX_SCORE_FILES, *SCORE_FILES):  # of maps that were here before
            (self.folder / name).unlink(missing_ok=True)
        if self.boxes:
            table_file, coco_file = (self.folder / name for name in BOX_FILES)
            write_csv(table_file, self.all_boxes().to_dataframe())
            write_json(coco_file, self.all_boxes().to_coco())
            written |= {"boxes_csv": str(table_file), "boxes_json": str(coco_file)}
        rows = json.loads(table.to_json(orient="records", force_ascii=False))
        with writing(self.folder / "heatmaps.npz") as part:
            for number in range(len(self.tables)):
                with np.load(self._file(number), allow_pickle=False) as archive:
                    arrays = {name: archive[name] for name in archive.files if name not in ("record", "sheet")}
                _append_npz(part, number, arrays)
        names = [path.relative_to(self.folder).as_posix() for path in self.pictures]
        contents = {**self.about, "chunks": len(self.tables), "pictures": names, "maps": rows}
        write_json(self.folder / "explain.json", contents)
        shutil.rmtree(self.unfinished, ignore_errors=True)
        return written | {"json": str(self.folder / "explain.json"), "npz": str(self.folder / "heatmaps.npz")}


def _drawn(boxes: Boxes, image: int, true_boxes: Sequence[np.ndarray | None] | None) -> dict[str, Any]:
    """The boxes of an image as its picture takes them."""
    height, width = boxes.size(image)
    true = None if true_boxes is None else true_boxes[image]
    shares = None if true is None else true / np.array([width, height, width, height], float)
    return {"boxes": boxes.of_image(image), "true_boxes": shares}


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
    layers = {row["block"]: row["layer"] for row in about["maps"] if "layer" in row}
    files = tuple(row["file"] for row in about["maps"] if row["block"] == min(raw))
    maps = BlockHeatmaps(
        method=about["method"],
        raw=raw,
        images=arrays["images"],
        files=files,
        classes=arrays["classes"],
        class_names=tuple(about["class_names"]),
        probabilities=arrays["probabilities"],
        rule=about["rule"],
        resize=about.get("resize", "stretch"),
        bit_depth=about.get("bit_depth"),
        precision=about.get("precision", "float32"),
        layers=layers,
        contributions=Contributions(
            arrays["added_by_means"], arrays["added_by_maxima"], arrays["constant"], tuple(sorted(raw))
        )
        if "constant" in arrays
        else None,
    )
    if "checks" not in about:
        return maps
    randomised = about["checks"]["images_randomised"]
    return maps.with_checks(checks_of_rows(about["maps"], files, maps.blocks, maps.is_zero, randomised, layers))
