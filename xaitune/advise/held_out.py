"""Held-out predictions of linear heads on frozen features, fitted again and again on parts of the images."""

import dataclasses
import functools

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from xaitune.training.linear import FOLDS, LinearHead, fit_linear_head


class HeldOut:
    """Predictions for every image by a linear head that was fitted without the image's group.

    `features` (n, d), `labels` (n,) class numbers, `groups` (n,). The head is that of `fit_linear_head`, with the penalty
    that it finds on all images; features are standardised by all images. All fits share one Gram matrix, so that a fit on
    another part of the images takes milliseconds. Raises ValueError where a class has a single group.
    """

    def __init__(
        self, features: np.ndarray, labels: np.ndarray, groups: np.ndarray, num_classes: int, metric: str
    ) -> None:
        self.labels, self.groups, self.num_classes = labels, groups, num_classes
        self.head = fit_linear_head(features, labels, groups, num_classes, metric=metric)
        fewest = min(len(set(groups[labels == label])) for label in set(labels.tolist()))
        if fewest < 2:
            raise ValueError("Held-out predictions need two groups of each class.")
        folds = StratifiedGroupKFold(min(FOLDS, fewest), shuffle=True, random_state=0)
        self.folds = [test for _, test in folds.split(features, labels, groups)]
        self.standard = ((features - self.head.mean) / np.sqrt(self.head.variance)).astype(np.float64)

    @functools.cached_property
    def gram(self) -> np.ndarray:
        """(n, n) inner products of the standardised features."""
        return self.standard @ self.standard.T

    def predict(self, keep: np.ndarray | None = None) -> np.ndarray:
        """(n,) class numbers, from heads fitted on the images of `keep` (n,) bool outside each fold; on all by default."""
        predicted = np.empty(len(self.labels), int)
        for fold in range(len(self.folds)):
            rows, dual, level = self._fit(fold, keep)
            mean = self.gram[np.ix_(rows, rows)].mean(axis=0)
            outputs = level + (self.gram[np.ix_(self.folds[fold], rows)] - mean) @ dual
            predicted[self.folds[fold]] = outputs.argmax(axis=1)
        return predicted

    def fold_head(self, fold: int) -> LinearHead:
        """The head that predicts the images of a fold."""
        rows, dual, level = self._fit(fold, None)
        kernel = self.standard[rows].T @ dual
        bias = level - self.standard[rows].mean(axis=0) @ kernel
        return dataclasses.replace(self.head, kernel=kernel.astype(np.float32), bias=bias.astype(np.float32))

    def _fit(self, fold: int, keep: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The rows that ridge regression on one-hot targets is fitted on, its dual weights and the mean targets."""
        chosen = np.ones(len(self.labels), bool) if keep is None else keep.copy()
        chosen[self.folds[fold]] = False
        rows = np.flatnonzero(chosen)
        targets = np.eye(self.num_classes)[self.labels[rows]]
        level = targets.mean(axis=0)
        inner = self.gram[np.ix_(rows, rows)]
        inner = inner - inner.mean(axis=0) - inner.mean(axis=1)[:, None] + inner.mean()
        inner[np.diag_indices_from(inner)] += self.head.penalty * len(rows)
        return rows, np.linalg.solve(inner, targets - level), level
