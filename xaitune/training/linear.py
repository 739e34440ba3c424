"""A linear classifier on frozen features, fitted in closed form within seconds."""

import dataclasses

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.model_selection import StratifiedGroupKFold

from xaitune.stats.metrics import confusion, scores_from_confusion

PENALTIES = tuple(10.0 ** (power / 2) for power in range(6, -5, -1))  # per image, the strongest first
FOLDS = 5
SCALES = (0.1, 100.0)  # of the logits


@dataclasses.dataclass(frozen=True, eq=False)
class LinearHead:
    """logits = (features - mean) / sqrt(variance) @ kernel + bias, for features (n, d).

    `score`: its metric on the held-out images of the cross-validation that chose `penalty`; NaN where there was none.
    """

    mean: np.ndarray
    variance: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    penalty: float
    score: float

    @property
    def layers(self) -> dict[str, list[np.ndarray]]:
        """The weights of the layers of the head 'blocks' that compute this."""
        return {
            "standardise": [self.mean, self.variance, np.zeros((), np.int32)],
            "logits": [self.kernel, self.bias],
        }


def fit_linear_head(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    num_classes: int,
    *,
    metric: str = "f1_macro",
    sample_weight: np.ndarray | None = None,
    moments: tuple[np.ndarray, np.ndarray] | None = None,
) -> LinearHead:
    """Fit a linear head on features (n, d) of the training images with these class numbers and groups.

    It is ridge regression on one-hot targets (Hastie et al. 2009, section 4.2), of features standardised by their mean
    and variance, or by `moments`, the mean and the variance above 0 of more images. Of PENALTIES the one with the best
    `metric` on the held-out images of a stratified cross-validation over groups is taken, the strongest of equally good
    ones. Its outputs are multiplied by the factor with the least log loss on the same held-out images, which makes them
    logits. Where a class has a single group, penalty and factor are 1.
    Nothing is random: the same images give the same head.
    """
    mean, variance = feature_moments(features) if moments is None else moments
    standard = (features - mean) / np.sqrt(variance)
    weights = np.ones(len(labels)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    targets = np.eye(num_classes)[labels]
    penalty, factor, score = 1.0, 1.0, float("nan")
    folds = min(FOLDS, *(len(set(groups[labels == label])) for label in set(labels.tolist())))
    if folds > 1:
        held_out = np.zeros((len(PENALTIES), len(labels), num_classes))
        split = StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(standard, labels, groups)
        for train, test in split:
            path = _ridge_path(standard[train], targets[train], weights[train])
            for outputs, (kernel, bias) in zip(held_out, path, strict=True):
                outputs[test] = standard[test] @ kernel + bias
        matrices = [confusion(labels, outputs.argmax(axis=1), num_classes) for outputs in held_out]
        scores = [float(scores_from_confusion(matrix, metric)) for matrix in matrices]
        best = int(np.argmax(scores))
        penalty, score, factor = PENALTIES[best], scores[best], _factor(held_out[best], labels, weights)
    kernel, bias = _ridge_path(standard, targets, weights)[PENALTIES.index(penalty)]
    parts = (mean, variance, factor * kernel, factor * bias)
    mean, variance, kernel, bias = (part.astype(np.float32) for part in parts)
    return LinearHead(mean, variance, kernel, bias, penalty, score)


def feature_moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of every feature, (d,) each; the variance of a channel that is never active, but for rounding, is 1."""
    mean, variance = features.mean(axis=0, dtype=np.float64), features.var(axis=0, dtype=np.float64)
    return mean, np.where(variance <= np.maximum(1e-10 * mean**2, 1e-12), 1.0, variance)


def _ridge_path(features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(kernel (d, classes), bias) for each of PENALTIES, from one eigendecomposition of the smaller Gram matrix."""
    weights = weights / weights.mean()
    centre, level = (np.average(array, axis=0, weights=weights) for array in (features, targets))
    x, y = (np.sqrt(weights)[:, None] * (array - mean) for array, mean in ((features, centre), (targets, level)))
    wide = x.shape[1] > len(x)
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    projected = vectors.T @ (y if wide else x.T @ y)
    kernels = [vectors @ (projected / (np.maximum(values, 0) + p * len(x))[:, None]) for p in PENALTIES]
    kernels = [x.T @ kernel for kernel in kernels] if wide else kernels
    return [(kernel, level - centre @ kernel) for kernel in kernels]


def _factor(outputs: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """The factor in SCALES by which outputs become the logits with the least weighted log loss."""

    def loss(log_factor: float) -> float:
        return -float(
            np.average(
                log_softmax(np.exp(log_factor) * outputs, axis=1)[np.arange(len(labels)), labels], weights=weights
            )
        )

    return float(np.exp(minimize_scalar(loss, bounds=tuple(np.log(SCALES)), method="bounded").x))
