"""A model's predictions for an image with some of its superpixels hidden."""

import cv2
import numpy as np

from xaitune.explain.probabilities import Predict

BATCH = 64
Fill = str | float | tuple[float, float, float]  # what replaces a hidden superpixel: see config.parse.parse_fill


def _fill_image(image: np.ndarray, labels: np.ndarray, fill: Fill) -> np.ndarray:
    """(h, w, 3): the image with every superpixel hidden."""
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
    """(samples, classes): for each mask, the probabilities of the image with only the mask's superpixels shown.

    `exact`: mean colours are cast to the image's own dtype as in the lime package, to whole numbers for a uint8 image.
    """
    fill_dtype = image.dtype if exact else np.float32
    image = image.astype(np.float32)
    hidden = _fill_image(image, labels, fill).astype(fill_dtype).astype(np.float32)
    probabilities = []
    for start in range(0, len(masks), BATCH):
        shown = masks[start : start + BATCH].astype(bool)[:, labels][..., None]  # (b, h, w, 1)
        probabilities.append(predict(np.where(shown, image, hidden)))
    return np.concatenate(probabilities)
