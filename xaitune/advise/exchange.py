"""The test for drift: whether two sets of features have the same distribution, by exchanging whole groups between them."""

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

PERMUTATIONS = 999


def two_samples(
    features: list[tuple[np.ndarray, np.ndarray]], classes: dict[str, np.ndarray], groups: dict[str, np.ndarray]
) -> pd.DataFrame:
    """Whether old and new features have the same distribution within each class, for several kinds of features at once.

    `features`: for each kind (a block) the old (n, d) and the new ones (m, d); `classes` and `groups`: those of the 'old'
    and 'new' images. Of every group one image of each of its classes is taken, at random, so that no group weighs more for
    having more images. The statistic is the energy distance (Szekely and Rizzo 2004) of standardised features, summed over
    the classes that both have. Whole groups are exchanged at random between old and new, among those with the same classes,
    and p-values adjusted over the kinds by the largest statistic (Westfall and Young 1993). One row per kind, from 1:
    `distance` (the energy distance over twice the mean distance of old from new), `usual` (its 95 % quantile under exchange)
    and `p`; NaN where no class is in both.
    """
    rng = np.random.default_rng(0)
    which = np.repeat(["old", "new"], [len(classes["old"]), len(classes["new"])])
    label, group = (np.concatenate([names["old"], names["new"]]).astype(str) for names in (classes, groups))
    table = pd.DataFrame({"class": label, "set": which, "group": group})
    units = table.sample(frac=1, random_state=0).drop_duplicates(["class", "set", "group"]).sort_index()
    owner = units.groupby(["set", "group"]).ngroup().to_numpy()  # the group of each unit, of one set
    kinds = units.groupby(owner)["class"].agg(lambda names: "\n".join(sorted(names)))
    is_new = (units.groupby(owner)["set"].first() == "new").to_numpy()
    drawn = np.repeat(is_new[None], 1 + PERMUTATIONS, axis=0)
    for kind in set(kinds):
        inside = np.flatnonzero(kinds == kind)
        drawn[1:, inside] = rng.permuted(drawn[1:, inside], axis=1)
    rows = units.index.to_numpy()
    standard = []
    for old, new in features:
        values = np.concatenate([old, new]).astype(np.float64)[rows]
        spread = values.std(axis=0)
        standard.append((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1))
    statistic, scale = np.zeros((2, len(features), 1 + PERMUTATIONS))
    for name in sorted(set(classes["old"]) & set(classes["new"])):
        inside = np.flatnonzero(units["class"] == name)
        new = drawn[:, owner[inside]].astype(float)
        counts = new.sum(axis=1, keepdims=True)
        a = (1 - new) / np.maximum(len(inside) - counts, 1)  # shares of the old and of the new units
        b = new / np.maximum(counts, 1)
        weight = (counts * (len(inside) - counts) / len(inside))[:, 0]  # 0 where all are on one side
        for kind, values in enumerate(standard):
            distances = cdist(values[inside], values[inside])
            between = 2 * ((a @ distances) * b).sum(axis=1)
            within = ((a @ distances) * a).sum(axis=1) + ((b @ distances) * b).sum(axis=1)
            statistic[kind] += weight * np.where(weight > 0, between - within, 0)
            scale[kind] += weight * between
    relative = np.divide(statistic, scale, out=np.full_like(statistic, np.nan), where=scale > 0)
    centre, spread = statistic[:, 1:].mean(axis=1, keepdims=True), statistic[:, 1:].std(axis=1, keepdims=True)
    standardised = np.divide(statistic - centre, spread, out=np.zeros_like(statistic), where=spread > 0)
    largest, rounding = standardised[:, 1:].max(axis=0), 1e-9
    p = (1 + (largest[None] >= standardised[:, :1] - rounding).sum(axis=1)) / (1 + PERMUTATIONS)
    usual = np.array(
        [np.quantile(r[np.isfinite(r)], 0.95) if np.isfinite(r).any() else np.nan for r in relative[:, 1:]]
    )
    p = np.where(np.isfinite(relative[:, 0]), p, np.nan)
    index = pd.Index(range(1, len(features) + 1), name="block")
    return pd.DataFrame({"distance": relative[:, 0], "usual": usual, "p": p}, index=index)
