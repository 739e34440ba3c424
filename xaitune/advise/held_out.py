"""Held-out predictions of linear heads on frozen features, fitted again and again on parts of the images."""

import functools

import numpy as np
from scipy.special import softmax
from sklearn.model_selection import StratifiedGroupKFold

from xaitune._progress import Progress
from xaitune.training.linear import FOLDS, LinearHead, feature_moments, fit_linear_head


class HeldOut:
    """Predictions for every image by a linear head that was fitted without the image's group.

    `features` (n, d), `labels` (n,) class numbers, `groups` (n,). The head is ridge regression on one-hot targets, as in
    `fit_linear_head`, whose cross-validation chooses the penalty of each fold on the images outside it. Features are
    standardised by all images: what one fold alone shows would otherwise lie far outside of what its head has seen. The fits
    of `predict` share one Gram matrix, so that one on another part of the images takes milliseconds. Every class has the
    weight that it has among all images, whatever part of them is left. Raises ValueError where a class has a single group.
    """

    def __init__(
        self, features: np.ndarray, labels: np.ndarray, groups: np.ndarray, num_classes: int, metric: str
    ) -> None:
        self.labels, self.groups, self.num_classes = labels, groups, num_classes
        self.features, self.metric = features, metric
        fewest = min(len(set(groups[labels == label])) for label in set(labels.tolist()))
        if fewest < 2:
            raise ValueError("Held-out predictions need two groups of each class.")
        folds = StratifiedGroupKFold(min(FOLDS, fewest), shuffle=True, random_state=0)
        self.folds = [test for _, test in folds.split(features, labels, groups)]
        self.mean, self.variance = feature_moments(features)
        self.standard = (features - self.mean) / np.sqrt(self.variance)
        self.fold_of = np.empty(len(labels), int)  # the fold that an image is held out in
        for fold, test in enumerate(self.folds):
            self.fold_of[test] = fold
        self._fitted: dict[int, LinearHead] = {}

    @functools.cached_property
    def gram(self) -> np.ndarray:
        """(n, n) inner products of the standardised features."""
        return self.standard @ self.standard.T

    @functools.cached_property
    def directions(self) -> np.ndarray:
        """(n, d) the standardised features at unit length, float32."""
        length = np.linalg.norm(self.standard, axis=1, keepdims=True)
        return (self.standard / np.maximum(length, 1e-12)).astype(np.float32)

    def nearest(self, row: int, label: int) -> int:
        """The image of a class that is most similar to that of `row`, by the cosine, of those that are not of its group."""
        like = np.flatnonzero((self.labels == label) & (self.groups != self.groups[row]))
        return int(like[(self.directions[like] @ self.directions[row]).argmax()])

    def fitted(self, fold: int) -> LinearHead:
        """The head of a fold, fitted on all images outside it."""
        if fold not in self._fitted:
            outside = self.fold_of != fold
            self._fitted[fold] = fit_linear_head(
                self.features[outside],
                self.labels[outside],
                self.groups[outside],
                self.num_classes,
                metric=self.metric,
                moments=(self.mean, self.variance),
            )
        return self._fitted[fold]

    def probabilities(self, progress: Progress | None = None) -> np.ndarray:
        """(n, classes) probabilities of every image, by the `fitted` head of its fold."""
        made = np.empty((len(self.labels), self.num_classes))
        for fold, test in enumerate(self.folds):
            head = self.fitted(fold)
            made[test] = softmax(
                (self.features[test] - head.mean) / np.sqrt(head.variance) @ head.kernel + head.bias, axis=1
            )
            if progress:
                progress(fold + 1, len(self.folds), "held-out predictions")
        return made

    def predict(self, keep: np.ndarray | None = None) -> np.ndarray:
        """(n,) class numbers, from heads fitted on the images of `keep` (n,) bool outside each fold; on all by default."""
        predicted = np.empty(len(self.labels), int)
        for fold in range(len(self.folds)):
            rows, dual, level, centre = self._fit(fold, keep, self.fitted(fold).penalty)
            mean = centre @ self.gram[np.ix_(rows, rows)]
            outputs = level + (self.gram[np.ix_(self.folds[fold], rows)] - mean) @ dual
            predicted[self.folds[fold]] = outputs.argmax(axis=1)
        return predicted

    def _fit(
        self, fold: int, keep: np.ndarray | None, penalty: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The rows that the head of a fold is fitted on, its dual weights, the mean targets, and the rows' shares."""
        chosen = np.ones(len(self.labels), bool) if keep is None else keep.copy()
        outside = self.fold_of != fold
        rows = np.flatnonzero(chosen & outside)
        whole, left = (np.bincount(self.labels[r], minlength=self.num_classes) for r in (outside, rows))
        weights = (whole / np.maximum(left, 1))[self.labels[rows]]
        weights /= weights.mean()
        share, root = weights / weights.sum(), np.sqrt(weights)
        targets = np.eye(self.num_classes)[self.labels[rows]]
        level = share @ targets
        inner = self.gram[np.ix_(rows, rows)]
        mean = share @ inner
        inner = inner - mean - mean[:, None] + mean @ share
        inner = root[:, None] * inner * root
        inner[np.diag_indices_from(inner)] += penalty * len(rows)
        dual = root[:, None] * np.linalg.solve(inner, root[:, None] * (targets - level))
        return rows, dual, level, share
