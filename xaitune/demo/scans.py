"""Synthetic images for the demo: grey ultrasonic scans of internal steel defects, with exact masks.

A part has one defect. It is scanned three or four times: the geometry stays, while gain, noise and position change,
so the scans of a part are a group. Lengths are in units of the image's shorter side.
"""

import csv
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from xaitune._files import write_json
from xaitune.config.parse import parse_image_size
from xaitune.data.dataset import ImageData
from xaitune.demo.defects import CLASSES, Grid, Rng
from xaitune.errors import ConfigError, DataError, RunError

VERSION = 1  # to be increased when a change makes the same seed draw other images
MARKER = "demo.json"  # records the settings of the images and whether they are complete


def _metal(grid: Grid, rng: Rng, cover: np.ndarray) -> np.ndarray:
    """Echo of the metal around a defect: grain, bands, front wall, and back wall with the defect's shadow on it."""
    image = 0.26 + 0.04 * grid.noise(rng, 0.12) + 0.02 * grid.noise(rng, 0.012, stretch=3)
    bands = np.sin(2 * np.pi * (grid.y * rng.uniform(5, 11) + rng.uniform(0, 1)))
    image += rng.uniform(0.0, 0.04) * bands
    image -= rng.uniform(0.0, 0.12) * (grid.y - grid.height / 2)  # the echo weakens with depth
    wall = grid.height * rng.uniform(0.9, 0.94)
    shadow = 1 - 0.75 * cv2.GaussianBlur(cover.max(0, keepdims=True), (0, 0), 1.5)
    image += rng.uniform(0.3, 0.5) * np.exp(-(((grid.y - wall) / 0.018) ** 2)) * shadow
    return image + rng.uniform(0.1, 0.3) * np.exp(-((grid.y / 0.03) ** 2))


def _scan(image: np.ndarray, cover: np.ndarray, grid: Grid, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """One scan of a part, grey 0..255, and its mask, 0 or 255, with a random shift, blur, speckle, gain and noise."""
    shift = rng.integers(-3, 4, 2) * max(1, round(grid.unit / 64))
    move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    size = image.shape[::-1]
    image = cv2.warpAffine(image, move, size, borderMode=cv2.BORDER_REPLICATE)
    cover = cv2.warpAffine(cover, move, size)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.25, 0.7) * grid.unit / 64)
    speckle = 1 + rng.uniform(0.05, 0.13) * grid.noise(rng, 0.006)
    image = image * speckle * rng.uniform(0.75, 1.25) + rng.uniform(-0.04, 0.06)
    image += rng.uniform(0.01, 0.03) * rng.standard_normal(image.shape)
    grey = np.clip(np.round(image * 255), 0, 255).astype(np.uint8)
    return grey, np.where(cover >= 0.5, 255, 0).astype(np.uint8)


def _part(name: str, number: int, seed: int, grid: Grid) -> list[tuple[np.ndarray, np.ndarray]]:
    """The scans of one part, each with its mask; they depend only on the arguments."""
    rng = np.random.default_rng([seed, VERSION, list(CLASSES).index(name), number])
    cover, echo = CLASSES[name][0](grid, rng)
    image = _metal(grid, rng, cover) + echo * rng.uniform(0.55, 1.0)
    return [_scan(image, cover, grid, rng) for _ in range(rng.integers(3, 5))]


# ---- the folder


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def _write(path: Path, settings: dict[str, Any]) -> None:
    grid = Grid(tuple(settings["image_size"]))
    rows = [("file", "group")]
    for name, (_, parts) in CLASSES.items():
        for kind in ("images", "masks"):
            (path / kind / name).mkdir(parents=True, exist_ok=True)
        for number in range(1, max(3, round(parts * settings["scale"])) + 1):
            for scan, pictures in enumerate(_part(name, number, settings["seed"], grid), 1):
                file = f"{name}/part{number:03d}_scan{scan}.png"
                for kind, picture in zip(("images", "masks"), pictures, strict=True):
                    (path / kind / file).write_bytes(_png(picture))
                rows.append((file, f"{name}-{number:03d}"))
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    (path / "groups.csv").write_text(text.getvalue(), encoding="utf-8")


def _mark(path: Path, settings: dict[str, Any], finished: bool) -> None:
    """Write the marker file, atomically, so that it never claims more than what is there."""
    write_json(path / MARKER, settings | {"finished": finished})


def _finished(path: Path, settings: dict[str, Any]) -> bool:
    """Whether the images are there and complete. Raises DataError if the folder holds anything else."""
    if not path.exists():
        return False
    if not path.is_dir():
        raise DataError(f"{path} is a file; the demo images need a folder of their own. Name a folder.")
    try:
        existing = json.loads((path / MARKER).read_text(encoding="utf-8"))
        finished = bool(existing.pop("finished"))
    except FileNotFoundError:
        if all(entry.name.endswith(MARKER) for entry in path.iterdir()):  # empty, or an interrupted write
            return False
        raise DataError(f"{path} holds other files and is left as it is. Name a folder that is new or empty.") from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        raise DataError(f"{path / MARKER} cannot be read, so {path} is left as it is. Name another folder.") from None
    if existing != settings:
        raise DataError(f"{path} holds demo images made with {existing}, not with {settings}. Name another folder.")
    if not finished or not (path / "groups.csv").is_file():
        return False
    with open(path / "groups.csv", encoding="utf-8", newline="") as file:
        files = [row["file"] for row in csv.DictReader(file)]
    return all((path / kind / name).is_file() for kind in ("images", "masks") for name in files)


def make_demo_data(
    path: str | Path,
    *,
    seed: int = 0,
    image_size: Any = (64, 64),
    scale: float = 1.0,
    split: tuple[float, ...] = (0.6, 0.2, 0.2),
    split_seed: int = 0,
) -> ImageData:
    """Draw the demo's ultrasonic scans into a folder, unless they are already there, and load them.

    Eleven classes of internal steel defects, 24 to 90 images each, 8-bit grey PNG of `image_size` (height, width):
    `images/<class>/`, exact masks of the same names in `masks/<class>/`, and `groups.csv` (the three or four scans of a
    part are a group). `scale` multiplies the number of parts, but every class has at least three. `split` and
    `split_seed` as in `ImageData.from_folder`; they do not affect the files. The other arguments determine the files,
    byte for byte.

    A folder left incomplete by an interruption is completed. Other files are never overwritten: raises DataError if the
    folder holds anything else, including demo images made with other arguments; ConfigError for a wrong size, seed or
    scale; RunError if writing fails.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     len(make_demo_data(folder, scale=0.01, image_size=(32, 32)))
        114
    """
    path = Path(path)
    size = parse_image_size(image_size)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ConfigError(f"seed must be a whole number of at least 0. Received: seed={seed!r}.")
    if not 0 < scale <= 100:
        raise ConfigError(f"scale must be above 0 and at most 100. Received: scale={scale!r}.")
    settings = {"version": VERSION, "seed": seed, "image_size": list(size), "scale": float(scale)}
    try:
        if not _finished(path, settings):
            path.mkdir(parents=True, exist_ok=True)
            _mark(path, settings, finished=False)
            _write(path, settings)
            _mark(path, settings, finished=True)
    except OSError as error:
        raise RunError(f"Cannot write the demo images to {path}: {error}.") from None
    return ImageData.from_folder(
        path / "images",
        masks=path / "masks",
        groups=path / "groups.csv",
        image_size=size,
        split=split,
        split_seed=split_seed,
    )
