"""The table of predictions of image files, whatever computes them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from xaitune._progress import Progress


class ReadsImages(Protocol):
    """What knows its classes and how an image file becomes its input: a `Classifier`, an `ExportedModel`."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def image_size(self) -> tuple[int, int]: ...

    @property
    def resize(self) -> str: ...

    @property
    def bit_depth(self) -> int | None: ...

    def read_paths(self, paths: Sequence[Path], /) -> np.ndarray: ...


def predicted_rows(
    model: ReadsImages,
    probabilities: Callable[[np.ndarray], np.ndarray],
    paths: Sequence[Path],
    progress: Progress | None = None,
    chunk: int = 32,
) -> pd.DataFrame:
    """One row per image file: file, predicted class, its probability, and the probability of each class ('p(name)').

    `probabilities`: images (n, h, w, 3) -> (n, classes). `chunk` images are read at a time. Raises ImageError, ModelError.
    """
    names, parts = model.class_names, []
    for start in range(0, len(paths), chunk):
        files = paths[start : start + chunk]
        rows = probabilities(model.read_paths(files))  # (n, classes)
        top = rows.argmax(axis=1)
        frame = {"file": [str(p) for p in files], "predicted": np.array(names)[top], "probability": rows.max(axis=1)}
        parts.append(pd.DataFrame(frame | {f"p({name})": rows[:, i] for i, name in enumerate(names)}))
        if progress:
            progress(start + len(files), len(paths), "")
    return pd.concat(parts, ignore_index=True)
