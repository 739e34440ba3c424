"""Seeded split into train, validation and test, stratified by class, that never divides a group."""

from collections.abc import Sequence

import numpy as np

from xaitune.errors import DataError

SPLITS = ("train", "validation", "test")


def assign_splits(
    labels: np.ndarray,
    groups: np.ndarray,
    given: Sequence[str],
    shares: Sequence[float],
    seed: int,
    fold: str | None = None,
) -> np.ndarray:
    """'train', 'validation' or 'test' for every image; `given` has these names, or '' for every image.

    Given splits stay as they are; a split without any image is filled from train, in proportion to `shares` and without
    dividing a group. With a `fold` 'K/N', fold K of N is for testing and the next one for validation. Raises DataError
    if splits are given but no image is for training, or splits and a fold.
    """
    splits = np.array(given, dtype="U10")
    if fold is not None:
        if (splits != "").any():
            raise DataError(
                "Folds divide all images anew, but these have given splits. Leave out the fold or the splits."
            )
        number, folds = (int(part) for part in fold.split("/"))
        after = (split_groups(labels, groups, np.full(folds, 1 / folds), seed) - (number - 1)) % folds
        return np.where(after == 0, "test", np.where(after == 1, "validation", "train"))
    pool = splits == ""
    missing = [s for s in SPLITS if not (splits == s).any()]
    if not pool.any():
        if "train" in missing:
            raise DataError("The given splits have no training images. Add a train split, or leave the splits out.")
        if not missing:
            return splits
        pool = splits == "train"
        missing = ["train", *missing]
    missing_shares = np.array([shares[SPLITS.index(s)] for s in missing])
    split_of = split_groups(labels[pool], groups[pool], missing_shares / missing_shares.sum(), seed)
    splits[pool] = np.array(missing, dtype="U10")[split_of]
    return splits


def split_groups(labels: np.ndarray, groups: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """(n,) the split number of every image, 0..len(shares) - 1: stratified by class, no group divided.

    It depends only on the labels, group names, shares and seed, not on the order of the images. A class with at least
    as many groups as there are splits gets a group in every split, if groups shared between classes allow it.
    """
    names, group_of = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    classes, label_of = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(names), len(classes)))  # images of each class in each group
    np.add.at(counts, (group_of, label_of), 1)
    rng = np.random.default_rng(seed)
    split = _greedy(counts, shares, rng)
    return _improved(counts, shares, split, rng)[group_of]


def _greedy(counts: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Assign groups class by class, the class with the fewest groups first, each to the split that lacks most of it."""
    split = np.full(len(counts), -1)
    for c in np.argsort((counts > 0).sum(axis=0), kind="stable"):
        target = shares * counts[:, c].sum()
        assigned = np.array([counts[split == s, c].sum() for s in range(len(shares))])
        for g in rng.permutation(np.flatnonzero((counts[:, c] > 0) & (split < 0))):
            lacking = (target - assigned - counts[g, c] / 2) / target
            best = np.flatnonzero(lacking >= lacking.max() - 1e-12)
            split[g] = rng.choice(best, p=shares[best] / shares[best].sum())
            assigned[split[g]] += counts[g, c]
    return split


def _improved(counts: np.ndarray, shares: np.ndarray, split: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move single groups to other splits while that lowers the cost, the best move first; `rng` breaks ties.

    The cost counts, first, the splits without a class that has enough groups for all splits and, second, the squared
    deviation from `shares`, summed over splits and classes.
    """
    enough_groups = (counts > 0).sum(axis=0) >= len(shares)
    class_size = counts.sum(axis=0)
    tie_order = rng.permutation(len(counts))

    def cost(images: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Cost from the numbers of images and groups, both (..., splits, classes)."""
        deviation = (images / class_size - shares[:, None]) ** 2
        return deviation.sum(axis=(-2, -1)) + 1000.0 * ((groups == 0) & enough_groups).sum(axis=(-2, -1))

    present = (counts > 0).astype(float)
    one_hot = np.eye(len(shares))
    for _ in range(10 * len(counts)):
        images, groups = one_hot[split].T @ counts, one_hot[split].T @ present  # (splits, classes)
        step = one_hot[None] - one_hot[split][:, None]  # (groups, to, splits)
        new_cost = np.empty(step.shape[:2])
        for to in range(len(shares)):
            move = step[:, to, :, None]
            new_cost[:, to] = cost(images + move * counts[:, None], groups + move * present[:, None])
        best = np.lexsort((np.repeat(tie_order, len(shares)), np.round(new_cost.ravel(), 12)))[0]
        g, to = divmod(int(best), len(shares))
        if new_cost[g, to] >= cost(images, groups) - 1e-12:
            break
        split[g] = to
    return split
