"""The defects that the demo draws, one function for each class.

A function returns (coverage 0..1 by the defect, strength of its echo), both (h, w).
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

Rng = np.random.Generator


class Grid:
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


Drawn = tuple[np.ndarray, np.ndarray]


def _rotated(points: np.ndarray, angle: float) -> np.ndarray:
    return points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _porosity(grid: Grid, rng: Rng) -> Drawn:
    """A loose cluster of small round pores."""
    count = rng.integers(7, 16)
    centres = grid.spot(rng, 0.25) + rng.normal(0, 1, (count, 2)) * rng.uniform(0.11, 0.17)
    cover = grid.ellipses(centres, np.repeat(rng.uniform(0.02, 0.04, (count, 1)), 2, 1))
    return cover, cover * rng.uniform(0.5, 0.9)


def _inclusion(grid: Grid, rng: Rng) -> Drawn:
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


def _crack(grid: Grid, rng: Rng) -> Drawn:
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


def _lamination(grid: Grid, rng: Rng) -> Drawn:
    """A long flat reflector along the plate, with a repeat echo below and a shadow on the back wall."""
    centre = grid.spot(rng, 0.2)
    half = rng.uniform(0.28, 0.42)
    x = np.linspace(-half, half, 7)
    points = np.stack([x, 0.012 * np.cumsum(rng.normal(0, 0.5, 7)) + x * rng.normal(0, 0.05)], 1) + centre
    cover = grid.line(points, rng.uniform(0.05, 0.08))
    strength = cover * rng.uniform(0.6, 0.95)
    repeat = grid.line(points + np.array([0, rng.uniform(0.14, 0.2)]), 0.04)
    return cover, np.maximum(strength, repeat * rng.uniform(0.1, 0.25))


def _shrinkage(grid: Grid, rng: Rng) -> Drawn:
    """A spongy, ragged field of cavities: noise inside an ellipse, thresholded."""
    centre, angle = grid.spot(rng, 0.28), rng.uniform(0, np.pi)
    field = grid.ellipses(centre, [rng.uniform(0.24, 0.34), rng.uniform(0.17, 0.24)], angle)
    cover = field * grid.soft((grid.noise(rng, 0.026) - 0.1) * 0.03)
    return cover, cover * rng.uniform(0.45, 0.8) * np.clip(0.8 + 0.3 * grid.noise(rng, 0.05), 0.3, 1.2)


def _segregation(grid: Grid, rng: Rng) -> Drawn:
    """A wide soft band of faint streaks along the rolling direction."""
    centre, thickness = grid.spot(rng, 0.25), rng.uniform(0.11, 0.18)
    slope = rng.normal(0, 0.08)
    distance = np.abs(grid.y - centre[1] - slope * (grid.x - centre[0]) - 0.02 * grid.noise(rng, 0.15))
    along = np.abs(grid.x - centre[0]) / rng.uniform(0.3, 0.5)
    band = np.exp(-((distance / thickness) ** 2) - along**4)
    streaks = np.clip(0.6 + 0.4 * grid.noise(rng, 0.018, stretch=8), 0, 1.4)
    return grid.soft((band - 0.4) * thickness), band * streaks * rng.uniform(0.45, 0.75)


def _island(grid: Grid, rng: Rng) -> Drawn:
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


def _blowhole(grid: Grid, rng: Rng) -> Drawn:
    """One or two gas cavities: a dark inside with a bright rim, brightest at the front."""
    centre = grid.spot(rng, 0.25)
    count = 1 if rng.random() < 0.7 else 2
    offsets = _rotated(np.array([[0.0, 0.0], [rng.uniform(0.32, 0.38), 0.0]])[:count], rng.uniform(0, np.pi))
    radii = rng.uniform(0.11, 0.17, (count, 1)) * rng.uniform(0.9, 1.1, (count, 2))
    cover = grid.ellipses(centre + offsets, radii)
    inside = grid.ellipses(centre + offsets + np.array([0, 0.01]), radii * rng.uniform(0.55, 0.7))
    facing = np.clip(1.1 - (grid.y - centre[1]) * 2.5, 0.4, 1.2)  # the side towards the probe reflects most
    return cover, cover * (1 - inside) * rng.uniform(0.55, 0.9) * facing - inside * 0.25


def _flake(grid: Grid, rng: Rng) -> Drawn:
    """Several short hairlines in different directions (hydrogen flakes)."""
    count = rng.integers(4, 8)
    centres = grid.spot(rng, 0.28) + rng.uniform(-0.24, 0.24, (count, 2))
    cover = grid.ellipses(
        centres,
        np.stack([rng.uniform(0.08, 0.13, count), np.full(count, 0.021)], 1),
        rng.uniform(0, np.pi, count),
    )
    return cover, cover * rng.uniform(0.5, 0.9)


def _centre_line(grid: Grid, rng: Rng) -> Drawn:
    """A chain of beads along the plate's centre line."""
    count = rng.integers(6, 10)
    x = np.linspace(0, rng.uniform(0.6, 0.8), count) + rng.normal(0, 0.012, count)
    start = rng.uniform(0.08, max(0.09, grid.width - x.max() - 0.08))
    y = grid.height * 0.5 + rng.normal(0, 0.06) + rng.normal(0, 0.009, count)
    radii = np.stack([rng.uniform(0.028, 0.048, count), rng.uniform(0.024, 0.038, count)], 1)
    cover = grid.ellipses(np.stack([x + start, y], 1), radii)
    return cover, cover * rng.uniform(0.5, 0.9)


def _burst(grid: Grid, rng: Rng) -> Drawn:
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
CLASSES: dict[str, tuple[Callable[[Grid, Rng], Drawn], int]] = {
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
