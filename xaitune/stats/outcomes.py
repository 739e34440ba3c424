"""What a model answered on test images, as counts of (true, predicted) per image: one for a class, pixels for a segmentation."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from xaitune.errors import InputError
from xaitune.stats.metrics import truth_and_predictions


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The answers of one model on n images, of S trainings that differ in their seed.

    `cells`: for each seed a sparse (C * C, n) array, a flattened confusion matrix (rows: truth) per image. `truth`: (n, C)
    counts of what is true in each image. `correct`: (n,) the share of an image that is right, on average over the seeds.
    """

    cells: tuple[sparse.csr_array, ...]
    truth: np.ndarray
    correct: np.ndarray

    @classmethod
    def of_classes(cls, true: Any, predicted: Any) -> "Outcomes":
        """From true class numbers (n,) and predicted ones (n,) or (S, n). Raises InputError."""
        predicted = np.atleast_2d(np.asarray(predicted))
        if predicted.ndim != 2:
            raise InputError(f"predictions must be (images,) or (seeds, images). Received: shape {predicted.shape}.")
        classes = int(max(np.max(true, initial=0), predicted.max(initial=0))) + 1
        true, predicted = truth_and_predictions(true, predicted, classes)
        images = np.arange(len(true))
        cells = [
            sparse.coo_array((np.ones(len(true)), (true * classes + p, images)), shape=(classes**2, len(true))).tocsr()
            for p in predicted
        ]
        truth = np.zeros((len(true), classes))
        truth[images, true] = 1
        return cls(tuple(cells), truth, (predicted == true).mean(axis=0))

    @classmethod
    def of_counts(cls, counts: Any) -> "Outcomes":
        """From confusion matrices (n, C, C) or (S, n, C, C), which count pixels. Raises InputError."""
        counts = np.asarray(counts, float)
        counts = counts[None] if counts.ndim == 3 else counts
        if counts.ndim != 4 or counts.shape[2] != counts.shape[3]:
            raise InputError(f"counts must be (images, C, C) or (seeds, images, C, C). Received: shape {counts.shape}.")
        cells = tuple(sparse.csr_array(seed.reshape(len(seed), -1).T) for seed in counts)
        right = np.trace(counts, axis1=2, axis2=3) / np.maximum(counts.sum((2, 3)), 1)
        return cls(cells, counts[0].sum(axis=2), right.mean(axis=0))

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def classes(self) -> int:
        """How many classes there are; classes beyond these do not affect the scores."""
        return self.truth.shape[1]

    @property
    def known(self) -> np.ndarray:
        """(C,) which classes occur in the truth."""
        return self.truth.sum(axis=0) > 0

    def of_groups(self, groups: np.ndarray) -> list[sparse.csr_array]:
        """For each seed the counts of each group of images: (C * C, G), sparse, since a group of few images fills few cells."""
        shape = (len(groups), int(groups.max()) + 1)
        member = sparse.coo_array((np.ones(len(groups)), (np.arange(len(groups)), groups)), shape=shape).tocsr()
        return [cells @ member for cells in self.cells]

    def matrix(self, seed: int = 0) -> np.ndarray:
        """(C, C) the confusion matrix of all images, of one seed."""
        return self.cells[seed].sum(axis=1).reshape(self.classes, self.classes)

    def seed(self, number: int) -> "Outcomes":
        """The answers of one seed alone; `correct` is still that of all."""
        return Outcomes((self.cells[number],), self.truth, self.correct)
