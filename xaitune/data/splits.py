"""Train, validation and test: seeded, stratified by class, and never through the middle of a group."""

from collections.abc import Sequence

import numpy as np

from xaitune.errors import DataError

SPLITS = ("train", "validation", "test")


def assign_splits(
    labels: np.ndarray, groups: np.ndarray, given: Sequence[str], shares: Sequence[float], seed: int
) -> np.ndarray:
    """'train', 'validation' or 'test' for every image.

    Given splits are kept; those that are missing altogether are taken from train by their shares. A group taken
    from the pool is never divided. Raises DataError where only some images have a split or none is for training.
    """
    splits = np.array(given, dtype="U10")
    pool = splits == ""
    missing = [s for s in SPLITS if not (splits == s).any()]
    if not pool.any():
        if "train" in missing:
            raise DataError("The given splits have no training images. Add a train split, or leave the splits out.")
        if not missing:
            return splits
        pool = splits == "train"
        missing = ["train", *missing]
    wanted = np.array([shares[SPLITS.index(s)] for s in missing])
    number = split_groups(labels[pool], groups[pool], wanted / wanted.sum(), seed)
    splits[pool] = np.array(missing, dtype="U10")[number]
    return splits


def split_groups(labels: np.ndarray, groups: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """A split number 0..len(shares) - 1 for every image (n,): stratified by class, no group divided.

    Depends on the labels, group names, shares and seed alone, not on the order of images. Each class that has as
    many groups as there are splits gets at least one in each, if groups shared between classes allow it.
    """
    names, group_of = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    classes, label_of = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(names), len(classes)))  # images of each class in each group
    np.add.at(counts, (group_of, label_of), 1)
    rng = np.random.default_rng(seed)
    split = _greedy(counts, shares, rng)
    return _improved(counts, shares, split, rng)[group_of]


def _greedy(counts: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Class by class, the one with the fewest groups first: each group goes where its class lacks most."""
    split = np.full(len(counts), -1)
    for c in np.argsort((counts > 0).sum(axis=0), kind="stable"):
        target = shares * counts[:, c].sum()
        have = np.array([counts[split == s, c].sum() for s in range(len(shares))])
        for g in rng.permutation(np.flatnonzero((counts[:, c] > 0) & (split < 0))):
            need = (target - have - counts[g, c] / 2) / target
            best = np.flatnonzero(need >= need.max() - 1e-12)
            split[g] = rng.choice(best, p=shares[best] / shares[best].sum())
            have[split[g]] += counts[g, c]
    return split


def _improved(counts: np.ndarray, shares: np.ndarray, split: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move single groups while that lowers the cost: a split without a class that could have it, then the squared
    deviation of shares over the classes. The steepest move first, ties at random by `rng`."""
    enough = (counts > 0).sum(axis=0) >= len(shares)
    size = counts.sum(axis=0)
    tie = rng.permutation(len(counts))

    def cost(have: np.ndarray, held: np.ndarray) -> np.ndarray:
        """Of images (..., splits, classes) and groups (..., splits, classes) held."""
        deviation = (have / size - shares[:, None]) ** 2
        return deviation.sum(axis=(-2, -1)) + 1000.0 * ((held == 0) & enough).sum(axis=(-2, -1))

    present = (counts > 0).astype(float)
    one_hot = np.eye(len(shares))
    for _ in range(10 * len(counts)):
        have, held = one_hot[split].T @ counts, one_hot[split].T @ present  # (splits, classes)
        step = one_hot[None] - one_hot[split][:, None]  # (groups, to, splits)
        new = np.empty(step.shape[:2])
        for to in range(len(shares)):
            move = step[:, to, :, None]
            new[:, to] = cost(have + move * counts[:, None], held + move * present[:, None])
        g, to = divmod(int(np.lexsort((np.repeat(tie, len(shares)), np.round(new.ravel(), 12)))[0]), len(shares))
        if new[g, to] >= cost(have, held) - 1e-12:
            break
        split[g] = to
    return split
