"""Synthetic images for the demo: grey ultrasonic scans of internal steel defects, with exact masks.

A part has one defect. It is scanned three or four times: the geometry stays, while gain, noise and position change,
so the scans of a part are a group. Lengths are in units of the image's shorter side.
"""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from xaitune._files import write_json
from xaitune.config.parse import parse_image_size
from xaitune.data.dataset import ImageData
from xaitune.errors import ConfigError, DataError, RunError

VERSION = 1  # to be increased when a change makes the same seed draw other images
MARKER = "demo.json"  # records the settings of the images and whether they are complete
Rng = np.random.Generator


class _Grid:
    """Pixel centres of one image; x and y in units of its shorter side, y downward."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.unit = float(min(size))
        self.height, self.width = size[0] / self.unit, size[1] / self.unit
        self.y, self.x = np.meshgrid(*((np.arange(s) + 0.5) / self.unit for s in size), indexing="ij")

    def noise(self, rng: Rng, sigma: float, stretch: float = 1.0) -> np.ndarray:
        """Smooth noise with mean 0 and standard deviation 1; `stretch` elongates it along x."""
        raw = rng.standard_normal(self.x.shape)
        smooth = cv2.GaussianBlur(
            raw, (0, 0), sigmaX=sigma * self.unit * stretch, sigmaY=sigma * self.unit, borderType=cv2.BORDER_REFLECT
        )
        return (smooth - smooth.mean()) / smooth.std()

    def soft(self, depth: np.ndarray) -> np.ndarray:
        """Share of each pixel that is covered, from its depth inside an outline (negative outside)."""
        return np.clip(depth * self.unit + 0.5, 0, 1)

    def ellipses(self, centres: Any, radii: Any, angle: Any = 0.0) -> np.ndarray:
        """Coverage by the union of k ellipses: `centres` and `radii` (k, 2) as x, y; `angle` in radians."""
        centres, radii = np.atleast_2d(centres), np.atleast_2d(radii)
        dx = self.x[..., None] - centres[:, 0]  # (h, w, k)
        dy = self.y[..., None] - centres[:, 1]
        u = (dx * np.cos(angle) + dy * np.sin(angle)) / radii[:, 0]
        v = (dy * np.cos(angle) - dx * np.sin(angle)) / radii[:, 1]
        return self.soft(((1 - np.hypot(u, v)) * radii.min(1)).max(-1))

    def line(self, points: np.ndarray, width: Any) -> np.ndarray:
        """Coverage by a line through `points` (k, 2), of one width or a width for each of its k - 1 segments."""
        start, step = points[:-1], np.diff(points, axis=0)
        dx, dy = self.x[..., None] - start[:, 0], self.y[..., None] - start[:, 1]  # (h, w, k - 1)
        along = np.clip((dx * step[:, 0] + dy * step[:, 1]) / (step**2).sum(1), 0, 1)
        distance = np.hypot(dx - along * step[:, 0], dy - along * step[:, 1])
        return self.soft((np.asarray(width) / 2 - distance).max(-1))

    def spot(self, rng: Rng, margin: float) -> np.ndarray:
        """A random position (x, y) at least `margin` from the sides and above the back wall."""
        return np.array([rng.uniform(margin, self.width - margin), rng.uniform(margin, self.height * 0.84 - margin)])


# ---- one function per class: (coverage 0..1 by the defect, strength of its echo), both (h, w)

Drawn = tuple[np.ndarray, np.ndarray]


def _rotated(points: np.ndarray, angle: float) -> np.ndarray:
    return points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _porosity(grid: _Grid, rng: Rng) -> Drawn:
    """A loose cluster of small round pores."""
    count = rng.integers(7, 16)
    centres = grid.spot(rng, 0.25) + rng.normal(0, 1, (count, 2)) * rng.uniform(0.11, 0.17)
    cover = grid.ellipses(centres, np.repeat(rng.uniform(0.02, 0.04, (count, 1)), 2, 1))
    return cover, cover * rng.uniform(0.5, 0.9)


def _inclusion(grid: _Grid, rng: Rng) -> Drawn:
    """One to three compact angular grains of slag."""
    cover = np.zeros(grid.x.shape)
    cluster = grid.spot(rng, 0.22)
    for _ in range(rng.integers(1, 4)):
        centre = cluster + rng.normal(0, 0.14, 2)
        # A polygon as an intersection of half planes: flat faces and corners distinguish it from pores and islands.
        normals = np.sort(rng.uniform(0, 2 * np.pi, 4)) + np.arange(4) * 0.5
        distances = rng.uniform(0.05, 0.12, 4)
        dx, dy = grid.x - centre[0], grid.y - centre[1]
        faces = [r - dx * np.cos(a) - dy * np.sin(a) for a, r in zip(normals, distances, strict=True)]
        faces.append(0.15 - np.hypot(dx, dy))
        cover = np.maximum(cover, grid.soft(np.min(faces, axis=0)))
    return cover, cover * rng.uniform(0.55, 0.95)


def _crack(grid: _Grid, rng: Rng) -> Drawn:
    """A thin, jagged, steep line, sometimes with a branch."""
    count = rng.integers(6, 10)
    length = rng.uniform(0.5, 0.75)
    points = np.stack([rng.normal(0, 0.035, count), np.linspace(-length / 2, length / 2, count)], 1)
    points = _rotated(points, rng.uniform(-0.6, 0.6)) + grid.spot(rng, 0.3)
    cover = grid.line(points, np.linspace(0.06, 0.025, count - 1))
    if rng.random() < 0.5:
        start = points[count // 2]
        tip = start + _rotated(np.array([[0, 0.22]]), rng.choice([-1, 1]) * rng.uniform(0.6, 1.0))[0]
        middle = (start + tip) / 2 + rng.normal(0, 0.015, 2)
        cover = np.maximum(cover, grid.line(np.stack([start, middle, tip]), 0.035))
    return cover, cover * rng.uniform(0.5, 0.9)


def _lamination(grid: _Grid, rng: Rng) -> Drawn:
    """A long flat reflector along the plate, with a repeat echo below and a shadow on the back wall."""
    centre = grid.spot(rng, 0.2)
    half = rng.uniform(0.28, 0.42)
    x = np.linspace(-half, half, 7)
    points = np.stack([x, 0.012 * np.cumsum(rng.normal(0, 0.5, 7)) + x * rng.normal(0, 0.05)], 1) + centre
    cover = grid.line(points, rng.uniform(0.05, 0.08))
    strength = cover * rng.uniform(0.6, 0.95)
    repeat = grid.line(points + np.array([0, rng.uniform(0.14, 0.2)]), 0.04)
    return cover, np.maximum(strength, repeat * rng.uniform(0.1, 0.25))


def _shrinkage(grid: _Grid, rng: Rng) -> Drawn:
    """A spongy, ragged field of cavities: noise inside an ellipse, thresholded."""
    centre, angle = grid.spot(rng, 0.28), rng.uniform(0, np.pi)
    field = grid.ellipses(centre, [rng.uniform(0.24, 0.34), rng.uniform(0.17, 0.24)], angle)
    cover = field * grid.soft((grid.noise(rng, 0.026) - 0.1) * 0.03)
    return cover, cover * rng.uniform(0.45, 0.8) * np.clip(0.8 + 0.3 * grid.noise(rng, 0.05), 0.3, 1.2)


def _segregation(grid: _Grid, rng: Rng) -> Drawn:
    """A wide soft band of faint streaks along the rolling direction."""
    centre, thickness = grid.spot(rng, 0.25), rng.uniform(0.11, 0.18)
    slope = rng.normal(0, 0.08)
    distance = np.abs(grid.y - centre[1] - slope * (grid.x - centre[0]) - 0.02 * grid.noise(rng, 0.15))
    along = np.abs(grid.x - centre[0]) / rng.uniform(0.3, 0.5)
    band = np.exp(-((distance / thickness) ** 2) - along**4)
    streaks = np.clip(0.6 + 0.4 * grid.noise(rng, 0.018, stretch=8), 0, 1.4)
    return grid.soft((band - 0.4) * thickness), band * streaks * rng.uniform(0.45, 0.75)


def _island(grid: _Grid, rng: Rng) -> Drawn:
    """One closed plateau with a wavy outline and a dark border around it."""
    centre = grid.spot(rng, 0.25)
    dx, dy = grid.x - centre[0], grid.y - centre[1]
    angle = np.arctan2(dy, dx)
    coast = rng.uniform(0.17, 0.26)
    for wave in range(2, 6):
        coast = coast * (1 + rng.normal(0, 0.22) / wave * np.cos(wave * angle + rng.uniform(0, 2 * np.pi)))
    depth = coast - np.hypot(dx * rng.uniform(0.7, 1.0), dy)
    cover = grid.soft(depth)
    moat = np.exp(-(((depth + 0.04) / 0.035) ** 2)) * (depth < 0)
    texture = np.clip(0.85 + 0.12 * grid.noise(rng, 0.03), 0, 1.2)
    return cover, cover * rng.uniform(0.4, 0.75) * texture - 0.22 * moat


def _blowhole(grid: _Grid, rng: Rng) -> Drawn:
    """One or two gas cavities: a dark inside with a bright rim, brightest at the front."""
    centre = grid.spot(rng, 0.25)
    count = 1 if rng.random() < 0.7 else 2
    offsets = _rotated(np.array([[0.0, 0.0], [rng.uniform(0.32, 0.38), 0.0]])[:count], rng.uniform(0, np.pi))
    radii = rng.uniform(0.11, 0.17, (count, 1)) * rng.uniform(0.9, 1.1, (count, 2))
    cover = grid.ellipses(centre + offsets, radii)
    inside = grid.ellipses(centre + offsets + np.array([0, 0.01]), radii * rng.uniform(0.55, 0.7))
    facing = np.clip(1.1 - (grid.y - centre[1]) * 2.5, 0.4, 1.2)  # the side towards the probe reflects most
    return cover, cover * (1 - inside) * rng.uniform(0.55, 0.9) * facing - inside * 0.25


def _flake(grid: _Grid, rng: Rng) -> Drawn:
    """Several short hairlines in different directions (hydrogen flakes)."""
    count = rng.integers(4, 8)
    centres = grid.spot(rng, 0.28) + rng.uniform(-0.24, 0.24, (count, 2))
    cover = grid.ellipses(
        centres,
        np.stack([rng.uniform(0.08, 0.13, count), np.full(count, 0.021)], 1),
        rng.uniform(0, np.pi, count),
    )
    return cover, cover * rng.uniform(0.5, 0.9)


def _centre_line(grid: _Grid, rng: Rng) -> Drawn:
    """A chain of beads along the plate's centre line."""
    count = rng.integers(6, 10)
    x = np.linspace(0, rng.uniform(0.6, 0.8), count) + rng.normal(0, 0.012, count)
    start = rng.uniform(0.08, max(0.09, grid.width - x.max() - 0.08))
    y = grid.height * 0.5 + rng.normal(0, 0.06) + rng.normal(0, 0.009, count)
    radii = np.stack([rng.uniform(0.028, 0.048, count), rng.uniform(0.024, 0.038, count)], 1)
    cover = grid.ellipses(np.stack([x + start, y], 1), radii)
    return cover, cover * rng.uniform(0.5, 0.9)


def _burst(grid: _Grid, rng: Rng) -> Drawn:
    """A forging burst: wedge-shaped arms from one centre."""
    centre = grid.spot(rng, 0.28)
    arms = rng.integers(4, 7)
    angles = (np.arange(arms) + rng.uniform(-0.25, 0.25, arms)) * 2 * np.pi / arms + rng.uniform(0, np.pi)
    cover = grid.ellipses(centre, [0.06, 0.06])
    for angle in angles:
        ends = np.outer(np.linspace(0, 1, 5), [np.cos(angle), np.sin(angle)]) * rng.uniform(0.2, 0.32)
        ends[1:] += rng.normal(0, 0.008, (4, 2))
        cover = np.maximum(cover, grid.line(centre + ends, np.linspace(0.08, 0.03, 4)))
    return cover, cover * rng.uniform(0.5, 0.9)


# Class -> (function that draws it, number of parts that have it). 170 parts give about 600 scans.
CLASSES: dict[str, tuple[Callable[[_Grid, Rng], Drawn], int]] = {
    "porosity": (_porosity, 26),
    "inclusion": (_inclusion, 23),
    "crack": (_crack, 21),
    "lamination": (_lamination, 18),
    "shrinkage": (_shrinkage, 16),
    "segregation": (_segregation, 14),
    "island": (_island, 13),
    "blowhole": (_blowhole, 12),
    "flake": (_flake, 10),
    "centre_line": (_centre_line, 9),
    "burst": (_burst, 8),
}


# ---- a part and its scans


def _metal(grid: _Grid, rng: Rng, cover: np.ndarray) -> np.ndarray:
    """Echo of the metal around a defect: grain, bands, front wall, and back wall with the defect's shadow on it."""
    image = 0.26 + 0.04 * grid.noise(rng, 0.12) + 0.02 * grid.noise(rng, 0.012, stretch=3)
    bands = np.sin(2 * np.pi * (grid.y * rng.uniform(5, 11) + rng.uniform(0, 1)))
    image += rng.uniform(0.0, 0.04) * bands
    image -= rng.uniform(0.0, 0.12) * (grid.y - grid.height / 2)  # the echo weakens with depth
    wall = grid.height * rng.uniform(0.9, 0.94)
    shadow = 1 - 0.75 * cv2.GaussianBlur(cover.max(0, keepdims=True), (0, 0), 1.5)
    image += rng.uniform(0.3, 0.5) * np.exp(-(((grid.y - wall) / 0.018) ** 2)) * shadow
    return image + rng.uniform(0.1, 0.3) * np.exp(-((grid.y / 0.03) ** 2))


def _scan(image: np.ndarray, cover: np.ndarray, grid: _Grid, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
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


def _part(name: str, number: int, seed: int, grid: _Grid) -> list[tuple[np.ndarray, np.ndarray]]:
    """The scans of one part, each with its mask; they depend only on the arguments."""
    rng = np.random.default_rng([seed, VERSION, list(CLASSES).index(name), number])
    cover, echo = CLASSES[name][0](grid, rng)
    image = _metal(grid, rng, cover) + echo * rng.uniform(0.55, 1.0)
    return [_scan(image, cover, grid, rng) for _ in range(rng.integers(3, 5))]


# ---- the folder


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def _write(path: Path, settings: dict[str, Any]) -> None:
    grid = _Grid(tuple(settings["image_size"]))
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
