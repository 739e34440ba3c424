"""How far an exported file's outputs are from those of its run, image by image."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xaitune._names import plural
from xaitune._progress import Progress
from xaitune.errors import RunError
from xaitune.export.exported import ExportedModel

TOLERANCE = 1e-4  # of probabilities; of logits and heatmaps as a share of the largest value; about 1e-6 was measured
CHUNK = 32  # images in memory at a time

Outputs = Callable[[np.ndarray], dict[str, np.ndarray]]


class Comparison:
    """The largest differences between a run's outputs and a file's, over the images that were added.

    `images`, `same`: images, and those with the same top class. For a segmentation, an image has the same classes if no pixel
    differs but for near-ties: those whose two best probabilities are within twice the tolerance, where rounding decides.
    """

    def __init__(self) -> None:
        self.images = self.same = 0
        self.differences: dict[str, float] = {}
        self.sizes: dict[str, float] = {}
        self.worst: dict[str, str] = {}  # the image with the largest difference

    def add(self, files: Sequence[str], expected: dict[str, np.ndarray], received: dict[str, np.ndarray]) -> None:
        """Compare the outputs of some images. Raises RunError for other outputs or other shapes."""
        for name, values in expected.items():
            if name not in received or received[name].shape != values.shape:
                shape = received[name].shape if name in received else "nothing"
                raise RunError(f"It gives other outputs: {name} of shape {shape} instead of {values.shape}.")
            apart = np.abs(values - received[name]).reshape(len(values), -1).max(axis=1)
            apart = np.where(np.isnan(apart), np.inf, apart)
            if apart.max() >= self.differences.get(name, -1):
                self.differences[name], self.worst[name] = float(apart.max()), files[int(apart.argmax())]
            self.sizes[name] = max(self.sizes.get(name, 0.0), float(np.abs(values).max()))
        self.images += len(files)
        self.same += int(_same_classes(expected["probabilities"], received["probabilities"]).sum())

    def largest(self) -> dict[str, float]:
        """Output -> largest difference: of probabilities as it is, of the others as a share of the run's largest value."""
        sizes = {name: 1.0 if name == "probabilities" else max(size, 1e-12) for name, size in self.sizes.items()}
        return {name: difference / sizes[name] for name, difference in self.differences.items()}

    def problem(self) -> str:
        """What is wrong, in a sentence; '' if the file gives what the run gives."""
        for name, difference in self.largest().items():
            if not difference <= TOLERANCE:
                share = "" if name == "probabilities" else " of the largest value"
                return f"{name} differ by up to {difference:.2g}{share} (tolerance {TOLERANCE:g}), most for {self.worst[name]}."
        if self.same < self.images:
            return f"{plural(self.images - self.same, 'image')} of {self.images} get another class."
        return ""


def _same_classes(expected: np.ndarray, received: np.ndarray) -> np.ndarray:
    """(n,) bool: whether an image's top class is the same, or the class of every pixel that is not a near-tie."""
    same = expected.argmax(axis=-1) == received.argmax(axis=-1)
    if same.ndim == 1:
        return same
    best = np.sort(expected, axis=-1)
    return (same | (best[..., -1] - best[..., -2] <= 2 * TOLERANCE)).all(axis=(1, 2))


def compare_outputs(
    expected: Outputs, exported: ExportedModel, paths: Sequence[Path], progress: Progress | None = None
) -> Comparison:
    """Both asked about all images, in batches and the first one alone too. Raises ImageError, RunError."""
    comparison = Comparison()
    for start in range(0, len(paths), CHUNK):
        files = paths[start : start + CHUNK]
        images = exported.read_paths(files).astype(np.float32)
        values = expected(images)
        received = exported(images)
        if not start:
            alone = exported(images[:1])
            received = {name: _further(values[name], received[name], alone[name]) for name in received}
        comparison.add([str(file) for file in files], values, received)
        if progress:
            progress(start + len(files), len(paths), "")
    return comparison


def _further(expected: np.ndarray, batched: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """The batch's values, but of the first image those that are further from what is expected."""
    if batched.shape != expected.shape or alone.shape != expected[:1].shape:
        return batched
    if not np.abs(alone - expected[:1]).max() <= np.abs(batched[:1] - expected[:1]).max():
        return np.concatenate([alone, batched[1:]])
    return batched


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The figures of a proof."""
    return {
        "images": comparison.images,
        "same_class": comparison.same,
        "tolerance": TOLERANCE,
        "largest_difference": comparison.largest(),
    }
