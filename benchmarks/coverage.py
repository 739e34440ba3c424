"""How often the intervals of `stats` hold the truth: test sets drawn from a known confusion matrix, many times.

    python benchmarks/coverage.py [--sets 1000] [--out benchmarks/results/coverage.csv]

A test set has `groups` things, each of one class and photographed `images` times. The share of a class's things that
are given each class is known, and with it the true accuracy and macro F1; photographs of one thing are alike (a thing's
own shares are Dirichlet, correlation ALIKE). One row a case: how many of the 95 % intervals hold the truth, how many
lie above and below it, how many say that they may be relied on (`Interval.reliable`) and how many of these hold it; and
for comparison how many plain percentile intervals hold it.
"""

import argparse
import contextlib
import functools
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune.stats import comparisons, metrics, resampling
from xaitune.stats import intervals as stats

ALIKE = 0.3  # correlation of the photographs of one thing
AGREE = 0.7  # share of images on which the second model answers as the first does, beside what both get right
# Shares of the classes, and the share of each that is recognised; the rest is spread over the other classes evenly.
CLASSES = {
    "3 even": ([1 / 3] * 3, [0.9, 0.8, 0.7]),
    "6 even": ([1 / 6] * 6, [0.95, 0.9, 0.8, 0.7, 0.6, 0.5]),
    "6 uneven": ([0.5, 0.2, 0.1, 0.08, 0.07, 0.05], [0.95, 0.8, 0.7, 0.8, 0.6, 0.5]),
    "6, one very small": ([0.71, 0.09, 0.08, 0.06, 0.04, 0.02], [0.95, 0.6, 0.5, 0.7, 0.4, 0.5]),
    "3 even, few mistakes": ([1 / 3] * 3, [0.98, 0.97, 0.96]),
}
IMAGES = {"1": (1, 1), "1-9": (1, 9)}
GROUPS = (10, 20, 40, 80, 160)
METRICS = ("accuracy", "f1_macro")


def confusion_rows(recognised: list[float]) -> np.ndarray:
    """P(predicted class | true class), (C, C)."""
    right = np.array(recognised)
    others = np.repeat((1 - right)[:, None] / (len(right) - 1), len(right), axis=1)
    np.fill_diagonal(others, right)
    return others


def draw(
    shares: np.ndarray, rows: np.ndarray, images: tuple[int, int], groups: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A test set: true and predicted classes (n,) and groups (n,)."""
    of_group = rng.choice(len(shares), groups, p=shares)
    own = rows[of_group]
    if images != (1, 1):
        own = rng.standard_gamma(np.maximum(own * (1 - ALIKE) / ALIKE, 1e-6))
        own /= own.sum(axis=1, keepdims=True)
    number = np.repeat(np.arange(groups), rng.integers(images[0], images[1] + 1, groups))
    predicted = (rng.random((len(number), 1)) > own[number].cumsum(axis=1)).sum(axis=1)
    return of_group[number], np.minimum(predicted, len(shares) - 1), number


def second_model(
    true: np.ndarray, predicted: np.ndarray, number: np.ndarray, rows: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Answers of another model: the first one's for a share AGREE of the groups, else drawn anew from `rows`."""
    drawn = (rng.random((len(true), 1)) > rows[true].cumsum(axis=1)).sum(axis=1)
    keeps = (rng.random(number.max() + 1) < AGREE)[number]
    return np.where(keeps, predicted, np.minimum(drawn, len(rows) - 1))


@contextlib.contextmanager
def resamples_kept() -> Iterator[list[np.ndarray]]:
    """A list of the scores that `stats` draws, for the plain percentiles beside its intervals."""
    original, kept = resampling.resampled, []

    def resampled(true: Any, predicted: Any, groups: Any, weights: np.ndarray, metric: str) -> np.ndarray:
        scores = original(true, predicted, groups, weights, metric)
        if len(weights) > 1:
            kept.append(scores)
        return scores

    resampling.resampled = resampled
    try:
        yield kept
    finally:
        resampling.resampled = original


def simulate(classes: str, images: str, groups: int, sets: int, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """One row for each metric, of the score and of the difference from a second model."""
    shares, rows = np.array(CLASSES[classes][0]), confusion_rows(CLASSES[classes][1])
    worse = confusion_rows([r - 0.1 for r in CLASSES[classes][1]])
    both = AGREE * rows + (1 - AGREE) * worse  # what the second model answers on average
    rng = np.random.default_rng([seed, groups, *map(ord, classes + images)])
    found: dict[tuple[str, str], list[tuple]] = {}
    with resamples_kept() as drawn:
        for _ in range(sets):
            true, a, number = draw(shares, rows, IMAGES[images], groups, rng)
            b = second_model(true, a, number, worse, rng)
            for metric in METRICS:
                drawn.clear()
                alone = stats.bootstrap_interval(true, a, number, metric, draws=draws)
                gap = comparisons.paired_bootstrap(a, b, true, number, metric, draws=draws)
                plain = [np.quantile(scores, (0.025, 0.975)) for scores in (drawn[0], drawn[1] - drawn[2])]
                for of, interval, percentiles in (("score", alone, plain[0]), ("difference", gap, plain[1])):
                    row = (interval.low, interval.high, interval.reliable, *percentiles)
                    found.setdefault((metric, of), []).append(row)
    made = []
    for (metric, of), intervals in found.items():
        score, other = (float(metrics.scores_from_confusion(shares[:, None] * r, metric)) for r in (rows, both))
        truth = score if of == "score" else score - other
        low, high, reliable, first, last = np.array(intervals).T
        holds, sure = (low <= truth) & (truth <= high), reliable > 0
        row = {"classes": classes, "images a group": images, "groups": groups, "metric": metric, "of": of}
        row |= {"truth": truth, "holds it": holds.mean(), "above it": (low > truth).mean()}
        row |= {"below it": (high < truth).mean(), "mean width": (high - low).mean(), "reliable": sure.mean()}
        row["percentiles hold it"] = ((first <= truth) & (truth <= last)).mean()
        made.append(row | {"holds it where reliable": holds[sure].mean() if sure.sum() >= sets / 10 else np.nan})
    return pd.DataFrame(made)


def main() -> None:
    """Print a row a case as it is done, and write them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000, help="test sets a case")
    parser.add_argument("--draws", type=int, default=1000, help="resamples an interval")
    parser.add_argument("--groups", type=int, nargs="+", default=GROUPS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "coverage.csv")
    args = parser.parse_args()
    resampling.bootstrap_weights = functools.cache(resampling.bootstrap_weights)  # the same for every set of a size
    start, tables = time.monotonic(), []
    for groups, classes, images in itertools.product(args.groups, CLASSES, IMAGES):
        tables.append(simulate(classes, images, groups, args.sets, args.draws))
        print(tables[-1].to_string(index=False, header=len(tables) == 1, float_format="{:.3f}".format), flush=True)
    table = pd.concat(tables, ignore_index=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out, index=False, float_format="%.4f")
    sure = table[table["reliable"] > 0.9]
    print(f"{len(table)} cases of {args.sets} sets in {time.monotonic() - start:.0f} s, written to {args.out}")
    print(
        f"Where 9 of 10 say that they may be relied on ({len(sure)} cases), {sure['holds it'].min():.1%} to "
        f"{sure['holds it'].max():.1%} hold the truth; of all others {table.drop(sure.index)['holds it'].min():.1%} at least."
    )


if __name__ == "__main__":
    main()
