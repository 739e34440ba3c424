"""Class probabilities of a classifier, computed in the fastest way available."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from xaitune._progress import Progress
from xaitune.explain.classifier import Classifier
from xaitune.models import ncnn
from xaitune.models.precision import resolve_precision, with_precision
from xaitune.models.predict import Predictor

Predict = Callable[[np.ndarray], np.ndarray]  # (n, h, w, 3) 0..255 -> (n, classes)


class Probabilities:
    """(n, h, w, 3) 0..255 -> (n, classes) probabilities as `Classifier.probabilities` has them, computed in `precision`.

    float32 is computed by `ncnn.forward` where it supports the model and otherwise by Keras, with `exact` always by
    Keras. A call raises ModelError where the model's logits are not finite.
    """

    def __init__(self, classifier: Classifier, precision: str = "auto", exact: bool = False) -> None:
        self.classifier = classifier
        resolved, _ = resolve_precision(precision)
        model = classifier.model if resolved == "float32" else with_precision(classifier.model, resolved)
        self.logits = (None if exact else ncnn.forward(model)) or Predictor(model)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.classifier.probabilities(self.logits(np.asarray(images, np.float32)))


def predict_files(
    classifier: Classifier, paths: Sequence[Path], progress: Progress | None = None, chunk: int = 32
) -> pd.DataFrame:
    """One row per image file: file, predicted class, its probability, and the probability of each class ('p(name)').

    Computed in float32, `chunk` images at a time. Raises ImageError, ModelError.
    """
    probabilities, names, parts = Probabilities(classifier, "float32"), classifier.class_names, []
    for start in range(0, len(paths), chunk):
        files = paths[start : start + chunk]
        rows = probabilities(classifier.read_paths(files))  # (n, classes)
        top = rows.argmax(axis=1)
        frame = {"file": [str(p) for p in files], "predicted": np.array(names)[top], "probability": rows.max(axis=1)}
        parts.append(pd.DataFrame(frame | {f"p({name})": rows[:, i] for i, name in enumerate(names)}))
        if progress:
            progress(start + len(files), len(paths), "")
    return pd.concat(parts, ignore_index=True)
