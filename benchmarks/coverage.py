"""How often the intervals of `xaitune.stats` contain the truth: many test sets drawn from a known confusion matrix.

    python benchmarks/coverage.py [--sets 1000] [--verdict-sets 400] [--out benchmarks/results/coverage.csv]

A test set shows `groups` things, each of one class and photographed `images` times. For each class, the probability of
every answer is known, and with it the true accuracy and macro F1. Photographs of the same thing are alike: each thing's
own probabilities are Dirichlet, with correlation ALIKE. The result has one row per case: what fraction of the 95 %
intervals contains the truth, lies above it and lies below it; what fraction claims to be reliable (`Interval.reliable`)
and what fraction of those contains the truth; and, for comparison, what fraction of plain percentile intervals does.
In two further cases one thing holds half of the photographs, or their number is lognormal.

The second table (results/verdicts.csv) has the verdicts of whole sweeps: DEPTHS depths with known accuracies, trained with
SEEDS seeds that differ by a known standard deviation. The rival is the best on validation, which is off by VALIDATION_SD.
'Falsely confirmed': another depth is truly better by more than the margin. 'Falsely contradicted': the advised depth is
truly no worse than the rival. 'before' is the rule that it replaces: against the rival alone, without the seeds' variance,
whether reliable or not.
"""

import argparse
import contextlib
import functools
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from xaitune.comparison.verdict import MARGIN, verdict_of
from xaitune.stats import comparisons, intervals, metrics, resampling

ALIKE = 0.3  # correlation between photographs of the same thing
AGREE = (
    0.7  # share of groups for which the second model repeats the first one's answers; for the rest it is independent
)
# Shares of the classes, and the fraction of each that is recognised; the rest is spread evenly over the other classes.
CLASSES = {
    "3 even": ([1 / 3] * 3, [0.9, 0.8, 0.7]),
    "6 even": ([1 / 6] * 6, [0.95, 0.9, 0.8, 0.7, 0.6, 0.5]),
    "6 uneven": ([0.5, 0.2, 0.1, 0.08, 0.07, 0.05], [0.95, 0.8, 0.7, 0.8, 0.6, 0.5]),
    "6, one very small": ([0.71, 0.09, 0.08, 0.06, 0.04, 0.02], [0.95, 0.6, 0.5, 0.7, 0.4, 0.5]),
    "3 even, few mistakes": ([1 / 3] * 3, [0.98, 0.97, 0.96]),
}
IMAGES = ("1", "1-9", "one half", "lognormal")  # images per group
UNEVEN_GROUPS = (40, 160)  # numbers of groups tried with the last two
GROUPS = (10, 20, 40, 80, 160)
METRICS = ("accuracy", "f1_macro")
DEPTHS, SEEDS, ACCURACY, HARD, VALIDATION_SD = 5, 3, 0.8, 0.7, 0.04


def answer_probabilities(recognised: list[float]) -> np.ndarray:
    """P(predicted class | true class), (C, C)."""
    correct = np.array(recognised)
    matrix = np.repeat((1 - correct)[:, None] / (len(correct) - 1), len(correct), axis=1)
    np.fill_diagonal(matrix, correct)
    return matrix


def group_sizes(images: str, groups: int, rng: np.random.Generator) -> np.ndarray:
    """(groups,) the number of photographs of each thing; `images` is one of IMAGES."""
    if images == "one half":
        return np.r_[4 * (groups - 1), np.full(groups - 1, 4)]
    if images == "lognormal":
        return np.ceil(rng.lognormal(1, 1.5, groups)).astype(int)
    return rng.integers(1, 10 if images == "1-9" else 2, groups)


def draw_test_set(
    shares: np.ndarray, answers: np.ndarray, images: str, groups: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A test set: true classes, predicted classes and group numbers, each (n,)."""
    class_of_group = rng.choice(len(shares), groups, p=shares)
    own = answers[class_of_group]
    if images != "1":
        own = rng.standard_gamma(np.maximum(own * (1 - ALIKE) / ALIKE, 1e-6))
        own /= own.sum(axis=1, keepdims=True)
    number = np.repeat(np.arange(groups), group_sizes(images, groups, rng))
    predicted = (rng.random((len(number), 1)) > own[number].cumsum(axis=1)).sum(axis=1)
    return class_of_group[number], np.minimum(predicted, len(shares) - 1), number


def second_model(
    true: np.ndarray, predicted: np.ndarray, number: np.ndarray, answers: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Another model's predictions: the first model's for a share AGREE of the groups, otherwise drawn from `answers`."""
    drawn = (rng.random((len(true), 1)) > answers[true].cumsum(axis=1)).sum(axis=1)
    repeats = (rng.random(number.max() + 1) < AGREE)[number]
    return np.where(repeats, predicted, np.minimum(drawn, len(answers) - 1))


@contextlib.contextmanager
def recorded_resamples() -> Iterator[list[np.ndarray]]:
    """A list that receives the scores that `xaitune.stats` resamples, from which plain percentiles are computed."""
    original, recorded = resampling.resampled, []

    def resampled(outcomes: Any, groups: Any, weights: np.ndarray, metric: str) -> np.ndarray:
        scores = original(outcomes, groups, weights, metric)
        if len(weights) > 1:
            recorded.append(scores)
        return scores

    resampling.resampled = resampled
    try:
        yield recorded
    finally:
        resampling.resampled = original


def simulate(classes: str, images: str, groups: int, sets: int, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Two rows per metric: for the score, and for its difference from a second model's."""
    shares, answers = np.array(CLASSES[classes][0]), answer_probabilities(CLASSES[classes][1])
    worse = answer_probabilities([r - 0.1 for r in CLASSES[classes][1]])
    second = AGREE * answers + (1 - AGREE) * worse  # what the second model answers on average
    rng = np.random.default_rng([seed, groups, *map(ord, classes + images)])
    cases: dict[tuple[str, str], list[tuple]] = {}
    with recorded_resamples() as recorded:
        for _ in range(sets):
            true, a, number = draw_test_set(shares, answers, images, groups, rng)
            b = second_model(true, a, number, worse, rng)
            for metric in METRICS:
                recorded.clear()
                score = intervals.bootstrap_interval(true, a, number, metric, draws=draws)
                difference = comparisons.paired_bootstrap(a, b, true, number, metric, draws=draws)
                plain = [np.quantile(drawn, (0.025, 0.975)) for drawn in (recorded[0], recorded[1] - recorded[2])]
                for of, interval, percentiles in (("score", score, plain[0]), ("difference", difference, plain[1])):
                    bounds = (interval.low, interval.high, interval.reliable, *percentiles)
                    cases.setdefault((metric, of), []).append(bounds)
    rows = []
    for (metric, of), bounds in cases.items():
        one, two = (float(metrics.scores_from_confusion(shares[:, None] * p, metric)) for p in (answers, second))
        truth = one if of == "score" else one - two
        low, high, claims, plain_low, plain_high = np.array(bounds).T
        holds, reliable = (low <= truth) & (truth <= high), claims > 0
        row = {"classes": classes, "images a group": images, "groups": groups, "metric": metric, "of": of}
        row |= {"truth": truth, "holds it": holds.mean(), "above it": (low > truth).mean()}
        row |= {"below it": (high < truth).mean(), "mean width": (high - low).mean(), "reliable": reliable.mean()}
        row["percentiles hold it"] = ((plain_low <= truth) & (truth <= plain_high)).mean()
        enough = reliable.sum() >= sets / 10
        rows.append(row | {"holds it where reliable": holds[reliable].mean() if enough else np.nan})
    return pd.DataFrame(rows)


def simulate_verdicts(
    better: float, seed_sd: float, groups: int, images: int, sets: int, draws: int = 500
) -> dict[str, Any]:
    """How often the verdict is wrong when one depth is truly `better` than the advised one, and the rest are its equals.

    An image is hard for all models alike (correlation HARD), the photographs of one thing are equally hard, and two seeds
    of one depth are as different as two depths. Classes are even, and every mistake is the other class.
    """
    rng = np.random.default_rng([int(1000 * better), int(1000 * seed_sd), groups, images])
    truth = np.full(DEPTHS, ACCURACY)
    truth[-1] += better
    number = np.repeat(np.arange(groups), images)
    seen: list[dict[str, bool]] = []
    for _ in range(sets):
        true = rng.integers(0, 2, groups)[number]
        hard = math.sqrt(HARD) * rng.standard_normal(groups)[number]
        scores = comparisons.PairedScores(true, number, "accuracy", draws=draws)
        for depth in range(DEPTHS):
            accuracy = (truth[depth] + seed_sd * rng.standard_normal(SEEDS)).clip(0.01, 0.99)
            own = math.sqrt(1 - HARD) * rng.standard_normal((SEEDS, len(true)))
            right = norm.ppf(accuracy)[:, None] + hard + own > 0
            scores.add(depth, np.where(right, true, 1 - true))
        rival = 1 + int(np.argmax(truth[1:] + VALIDATION_SD * rng.standard_normal(DEPTHS - 1)))
        gap = scores.difference(0, rival)
        verdict = verdict_of(min(scores.lower_bounds(0).values()), gap.high, reliable=gap.reliable)
        drawn = scores.models[0].drawn - scores.models[rival].drawn
        half = resampling.reach(groups, 0.95) * drawn.std()
        before = "contradicted" if gap.difference + half < 0 else "cannot tell"
        before = "confirmed" if gap.difference - half > -MARGIN else before
        wrong = {"confirmed": better > MARGIN, "contradicted": truth[0] >= truth[rival], "cannot tell": False}
        row = {"reliable": gap.reliable, "confirmed": verdict == "confirmed", "contradicted": verdict == "contradicted"}
        for name, said in (("", verdict), (" before", before)):
            row |= {f"falsely {kind}{name}": said == kind and wrong[said] for kind in ("confirmed", "contradicted")}
        seen.append(row)
    case = {"better by": better, "seed sd": seed_sd, "groups": groups, "images a group": images}
    return case | pd.DataFrame(seen).mean().to_dict()


def main() -> None:
    """Print the rows of each case as soon as it is done, and write them all to a file at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000, help="test sets per case of the first table; 0: none")
    parser.add_argument("--draws", type=int, default=1000, help="resamples per interval")
    parser.add_argument("--groups", type=int, nargs="+", default=GROUPS, help="numbers of groups to try")
    parser.add_argument("--verdict-sets", type=int, default=400, help="sweeps per case of the second; 0: none")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "coverage.csv", help="CSV file")
    args = parser.parse_args()
    resampling.bootstrap_weights = functools.cache(resampling.bootstrap_weights)  # equal for all sets of the same size
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.sets:
        scores_and_differences(args)
    if args.verdict_sets:
        verdicts_of_sweeps(args)


def scores_and_differences(args: argparse.Namespace) -> None:
    """The first table."""
    start, tables = time.monotonic(), []
    for groups, classes, images in itertools.product(args.groups, CLASSES, IMAGES):
        if images in IMAGES[2:] and groups not in UNEVEN_GROUPS:
            continue
        tables.append(simulate(classes, images, groups, args.sets, args.draws))
        print(tables[-1].to_string(index=False, header=len(tables) == 1, float_format="{:.3f}".format), flush=True)
    table = pd.concat(tables, ignore_index=True)
    table.to_csv(args.out, index=False, float_format="%.4f")
    reliable = table[table["reliable"] > 0.9]
    print(f"{len(table)} cases of {args.sets} sets in {time.monotonic() - start:.0f} s, written to {args.out}")
    print(
        f"In the {len(reliable)} cases where more than 9 of 10 intervals claim to be reliable, "
        f"{reliable['holds it'].min():.1%} to {reliable['holds it'].max():.1%} contain the truth."
    )


def verdicts_of_sweeps(args: argparse.Namespace) -> None:
    """The second table."""
    cases = itertools.product((0.0, 0.02, 0.05), (0.0, 0.01, 0.025), ((40, 1), (300, 1), (2000, 1), (60, 5)))
    verdicts = pd.DataFrame([simulate_verdicts(b, sd, *size, args.verdict_sets) for b, sd, size in cases])
    verdicts.to_csv(args.out.with_name("verdicts.csv"), index=False, float_format="%.4f")
    print(verdicts.to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
