"""Class probabilities of a classifier, computed in the fastest way available."""

from collections.abc import Callable

import numpy as np

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
