"""What a model that does not scale its images answers under each of the usual scalings: evidence for which one it expects."""

import numpy as np
import pandas as pd

from xaitune.explain.classifier import Classifier
from xaitune.models.predict import Predictor
from xaitune.models.preprocess import GREY, SCALINGS, scaling_of

MOST_IMAGES = 16


def scaling_evidence(classifier: Classifier, images: np.ndarray) -> pd.DataFrame:
    """One row per scaling, for images (n, h, w, 3) in 0..255 of which at most MOST_IMAGES are used.

    `top_probability`: the mean probability of the top class; `classes`: how many classes are on top of at least one image;
    `spread`: the standard deviation of the probabilities over the images, the mean over the classes. A model that gets
    values of another range than in training often gives every image the same class, with a probability of 1.

    Examples:
        >>> scaling_evidence(classifier, images).loc["rescale", "classes"]  # doctest: +SKIP
        3
    """
    channels = 1 if any(layer.name == GREY for layer in classifier.model.layers) else 3
    predict = Predictor(classifier.model)
    rows = {}
    for name in ("none", *SCALINGS):
        logits = predict(_scaled(images[:MOST_IMAGES].astype(np.float32), name, channels))
        probabilities = classifier.probabilities(logits)
        rows[name] = {
            "top_probability": float(probabilities.max(axis=1).mean()),
            "classes": len(np.unique(probabilities.argmax(axis=1))),
            "spread": float(probabilities.std(axis=0).mean()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("preprocess")


def _scaled(images: np.ndarray, name: str, channels: int) -> np.ndarray:
    """What `preprocess.with_preprocessing` does to images; scaling and the luminance may change places."""
    arguments = scaling_of(name, channels)
    scaled = images * np.asarray(arguments["scale"], np.float32) + np.asarray(arguments["offset"], np.float32)
    return scaled[..., ::-1] if name == "imagenet" and channels == 3 else scaled
