"""What a model answers to images with superpixels hidden."""

import cv2
import numpy as np

from xaitune.explain.probabilities import Predict

BATCH = 64
Fill = str | float | tuple[float, float, float]  # what hides a superpixel: see config.parse.parse_fill


def _hidden(image: np.ndarray, labels: np.ndarray, fill: Fill) -> np.ndarray:
    """(h, w, 3): what stands where superpixels are hidden."""
    if fill == "mean":
        area = np.bincount(labels.ravel())
        sums = np.stack([np.bincount(labels.ravel(), image[..., c].ravel()) for c in range(3)], axis=1)
        return (sums / area[:, None]).astype(np.float32)[labels]
    if fill == "blur":
        return cv2.GaussianBlur(image, (0, 0), max(image.shape[:2]) / 16)
    return np.broadcast_to(np.asarray(fill, np.float32), image.shape)


def predict_masked(
    predict: Predict,
    image: np.ndarray,
    labels: np.ndarray,
    masks: np.ndarray,
    fill: Fill = "mean",
    exact: bool = False,
) -> np.ndarray:
    """(samples, classes) probabilities of the image with the superpixels of each mask shown.

    `exact`: mean colours take the image's own type as in the lime package, whole numbers for a uint8 image.
    """
    own_type = image.dtype if exact else np.float32
    image = image.astype(np.float32)
    hidden = _hidden(image, labels, fill).astype(own_type).astype(np.float32)
    out = []
    for start in range(0, len(masks), BATCH):
        shown = masks[start : start + BATCH].astype(bool)[:, labels][..., None]  # (b, h, w, 1)
        out.append(predict(np.where(shown, image, hidden)))
    return np.concatenate(out)
