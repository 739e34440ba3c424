"""Bootstrap over groups of images, on which intervals and comparisons are based.

Everything is computed from confusion matrices (rows: true class, columns: predicted class). A resample of groups is a
weighted sum of the groups' confusion matrices, so a bootstrap costs one sparse product and no loop over images. Seeds
share their test images, so their scores are averaged within a resample and never pooled as if they were more images.
"""

import math
from typing import Any

import numpy as np
from scipy.stats import t

from xaitune._names import plural
from xaitune.errors import InputError
from xaitune.stats.metrics import CLASS_MEANS, scores_from_confusion
from xaitune.stats.outcomes import Outcomes

DRAWS = 2000
# With fewer than these, intervals contain the truth less often than they claim (benchmarks/coverage.py):
FEW_GROUPS = 15  # of equal size; see effective_groups
FEW_CLASS_GROUPS = 5  # groups in the smallest class, for a score that is a mean over classes
FEW_MISTAKES = 8  # groups with a mistake; for a difference, of either model
MIN_GROUPS = 2 - 1e-9  # fewer, or fewer effective ones, give no interval
CHUNK = 4_000_000  # numbers held in memory at once while resampling: 32 MB


def check_level(level: float) -> None:
    """Raise InputError unless the level lies between 0 and 1."""
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, such as 0.95. Received: level={level!r}.")


def group_numbers(groups: Any, images: int) -> np.ndarray:
    """(images,) group numbers 0..G-1; without groups, every image is its own group. Raises InputError."""
    if groups is None:
        return np.arange(images)
    groups = np.asarray(groups)
    if groups.shape != (images,):
        raise InputError(f"groups must have one entry per image. Received: {groups.shape} for {images} images.")
    return np.unique(groups, return_inverse=True)[1]


def bootstrap_weights(num_groups: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """How often each resample contains each group: (draws, G) whole numbers, with rows that sum to G.

    A row is one draw of G groups with replacement (Efron 1979). The same seed gives the same resamples.
    """
    if num_groups < 1 or draws < 1:
        raise InputError(f"A bootstrap needs groups and draws. Received: num_groups={num_groups}, draws={draws}.")
    return np.random.default_rng(seed).multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=draws)


def effective_groups(groups: np.ndarray) -> float:
    """How many groups of equal size would vary as much: Kish's (sum n)^2 / sum n^2 over the images n of each group.

    Examples:
        >>> effective_groups(np.array([0, 0, 0, 1, 2, 3]))
        3.0
    """
    sizes = np.bincount(groups)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def resampled(outcomes: Outcomes, groups: np.ndarray, weights: np.ndarray, metric: str) -> np.ndarray:
    """(draws,) the score in each resample, averaged over seeds; `weights` is (draws, G).

    A class that a resample has lost is left out of a mean over classes, also where a false alarm of it remains: as 0 it
    would pull the score far below any that the class could have.
    """
    classes, known = outcomes.classes, outcomes.known
    step = max(1, CHUNK // classes**2)
    scores = np.zeros(len(weights))
    for cells in outcomes.of_groups(groups):
        for start in range(0, len(weights), step):
            drawn = (cells @ weights[start : start + step].T).T  # (draws, C * C)
            scores[start : start + step] += scores_from_confusion(drawn.reshape(-1, classes, classes), metric, known)
    return scores / len(outcomes.cells)


def left_out(outcomes: Outcomes, groups: np.ndarray, metric: str) -> np.ndarray:
    """(G,) the score with each group left out in turn, averaged over seeds."""
    classes, known = outcomes.classes, outcomes.known
    step = max(1, CHUNK // classes**2)
    scores = np.zeros(int(groups.max()) + 1)
    for by_group in outcomes.of_groups(groups):
        cells = by_group.tocsc()
        total = cells.sum(axis=1)[:, None]
        for start in range(0, len(scores), step):
            rest = (total - cells[:, start : start + step].toarray()).T.reshape(-1, classes, classes)
            scores[start : start + step] += scores_from_confusion(rest, metric, known)
    return scores / len(outcomes.cells)


def variance_factor(groups: np.ndarray) -> float:
    """By how much the variance of a mean over groups exceeds that of its resamples: G / (G - 1) for G equal groups.

    In general it is sum h^2 / sum h^2 (1 - 2 h + sum h^2) for groups with shares h of the images: a large group pulls the
    mean towards itself, and so seems to vary less. Infinite for a single group.

    Examples:
        >>> variance_factor(np.array([0, 1, 2, 3])), round(variance_factor(np.array([0, 0, 0, 1, 2, 3])), 2)
        (1.3333333333333333, 2.0)
    """
    shares = np.bincount(groups) / len(groups)
    squares = shares**2
    seen = float((squares * (1 - 2 * shares + squares.sum())).sum())
    return float(squares.sum()) / seen if seen > 1e-12 else math.inf


def degrees_of_freedom(groups: np.ndarray) -> float:
    """Satterthwaite's degrees of freedom of a variance over groups, less 1 for the mean: (sum h^2)^2 / sum h^4 - 1.

    For groups with shares h of the images; G - 1 for G equal groups.
    """
    squares = np.bincount(groups).astype(float) ** 2
    return float(squares.sum() ** 2 / (squares**2).sum()) - 1


def reach(groups: float, level: float, factor: float | None = None) -> float:
    """Half-width of an interval in standard errors of the resamples: Student's quantile, which is larger for few groups.

    `groups`: how many, or how many effective ones where their sizes differ; `factor`: see `variance_factor`, by default
    that of equal groups. Infinite for fewer than MIN_GROUPS.
    """
    if groups < MIN_GROUPS:
        return math.inf
    return float(t.ppf((1 + level) / 2, groups - 1)) * math.sqrt(factor or groups / (groups - 1))


def scored_classes(truth: np.ndarray, metric: str) -> np.ndarray:
    """The columns of `truth` (n, C) whose classes a mean over classes is over: of `f1_at_iou` all but the background."""
    return truth[:, 1:] if metric == "f1_at_iou" else truth


def too_few(truth: np.ndarray, mistakes: np.ndarray, groups: np.ndarray, metric: str) -> str:
    """What is too scarce for a reliable interval, or ''.

    `truth`: (n, C) as in Outcomes; `mistakes` (n,) marks the images that are not always right.
    """
    count, effective = int(groups.max()) + 1, effective_groups(groups)
    scarce = [f"{count} groups"] if count < FEW_GROUPS else []
    if count >= FEW_GROUPS > effective:
        scarce.append(
            f"{effective:.0f} effective groups (the largest of {count} has {np.bincount(groups).max()} images)"
        )
    if metric in CLASS_MEANS:
        counted = scored_classes(truth, metric).T
        smallest = min((len(np.unique(groups[column > 0])) for column in counted if column.any()), default=0)
        if smallest < FEW_CLASS_GROUPS:
            scarce.append(f"{plural(smallest, 'group')} in the smallest class")
    wrong_groups = len(np.unique(groups[mistakes]))
    if wrong_groups < FEW_MISTAKES:
        scarce.append(f"{plural(wrong_groups, 'group')} with a mistake")
    return ", ".join(scarce)
