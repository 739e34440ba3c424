"""The decision: one Gaussian model of the candidates' scores, learnt from many tasks, and the candidate it advises."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd

COST_WEIGHT = 0.01  # the dearest training must gain a point, which is the margin of the verdict too
NEAR = 0.01  # confidence is the chance that the advised candidate is within this of the best
DRAWS = 8000
PRIOR_TASKS = 3.0  # the mean over all source weights counts as much as this many tasks with the same ones
RIDGE = 0.05  # of the signals' weights, relative to their variance
SHRINK = 0.3  # of the residual covariance, towards independent residuals of one variance


@dataclasses.dataclass(frozen=True)
class DecisionModel:
    """Scores of the candidates, relative to their mean: Gaussian, with mean prior + sum of weight * signal.

    `prior`: source weights ('imagenet', 'slim', 'random'; '' for any) -> mean relative score of each candidate.
    `expected`: the same for each signal, which enters as its relative value minus that. `weights`: signal -> weight.
    `covariance`: (candidates, candidates) of what remains. `tasks`: the number of tasks it was learnt from.
    """

    candidates: tuple[str, ...]
    prior: dict[str, list[float]]
    expected: dict[str, dict[str, list[float]]]
    weights: dict[str, float]
    covariance: list[list[float]]
    tasks: int

    @property
    def digest(self) -> str:
        """8 hex digits that identify the model."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:8]

    def parts(self, evidence: pd.DataFrame, source: str) -> pd.DataFrame:
        """What the prior and each signal say about each candidate's score, relative to the mean; they add up to `mean`."""
        kind = source if source in self.prior else ""
        parts = {"prior": np.array(self.prior[kind])}
        for signal, weight in self.weights.items():
            values = evidence.loc[list(self.candidates), signal].to_numpy(float)
            moved = weight * (relative(values) - np.array(self.expected[kind][signal]))
            parts[signal] = np.where(np.isfinite(values), moved, 0.0)
        return pd.DataFrame(parts, index=pd.Index(self.candidates, name="candidate"))


@dataclasses.dataclass(frozen=True, eq=False)
class Decision:
    """`advised`: the candidate with the least expected regret plus cost, and `confidence`: the chance that its score is
    within NEAR of the best. `table`: one row per candidate: `expected` score relative to the mean, `low` and `high` (95 %),
    `regret` (expected loss against the best candidate), `best` (chance of being it), `near` (chance of being within NEAR
    of it), and what the prior and each signal contribute to `expected`.
    """

    advised: str
    confidence: float
    table: pd.DataFrame


def relative(values: np.ndarray) -> np.ndarray:
    """Values (..., candidates) minus their mean; 0 where a value is missing."""
    known = np.isfinite(values)
    mean = np.where(known, values, 0.0).sum(axis=-1, keepdims=True) / np.maximum(known.sum(axis=-1, keepdims=True), 1)
    return np.where(known, values - mean, 0.0)


def decide(
    model: DecisionModel,
    evidence: pd.DataFrame,
    source: str,
    *,
    among: Sequence[str] | None = None,
    cost_weight: float = COST_WEIGHT,
) -> Decision:
    """The candidate that minimises E[max_j s_j - s_k] + cost_weight * cost_k.

    `evidence`: one row per candidate of the model, with its signals and its `cost` (0..1). `source`: the source weights.
    `among`: choose among these candidates only; the maximum runs over them too. The expectation is over DRAWS draws with a
    fixed seed.
    """
    parts = model.parts(evidence, source)
    mean = parts.sum(axis=1)
    names = list(among or model.candidates)
    chosen = [model.candidates.index(name) for name in names]
    rng = np.random.default_rng(0)
    draws = rng.multivariate_normal(mean.to_numpy(), np.array(model.covariance), DRAWS, method="eigh")[:, chosen]
    lost = draws.max(axis=1, keepdims=True) - draws
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    table = pd.DataFrame(
        {
            "expected": mean[names].to_numpy(),
            "low": low,
            "high": high,
            "regret": lost.mean(axis=0),
            "best": (lost == 0).mean(axis=0),
            "near": (lost <= NEAR).mean(axis=0),
        },
        index=pd.Index(names, name="candidate"),
    ).join(parts)
    total = table["regret"] + cost_weight * evidence.loc[names, "cost"]
    advised = str(total.idxmin())
    return Decision(advised, float(table.loc[advised, "near"]), table)


def fit_model(tasks: Sequence[Mapping[str, Any]], candidates: Sequence[str], signals: Sequence[str]) -> DecisionModel:
    """Learn the model from tasks whose scores are known.

    Each task has `source` (its source weights), `scores` (candidate -> test score) and `evidence` (a table with one row
    per candidate and one column per signal). The means of tasks with the same source weights are shrunk towards the mean
    of all; the weights of the signals are found by ridge regression over all tasks and candidates; the covariance is that
    of the residuals, shrunk towards independent ones.
    """
    order = list(candidates)
    sources = np.array([task["source"] for task in tasks])
    scores = relative(np.array([[task["scores"][name] for name in order] for task in tasks]))
    values = {
        s: relative(np.array([task["evidence"].loc[order, s].to_numpy(float) for task in tasks])) for s in signals
    }
    kinds = ["", *sorted(set(sources.tolist()))]

    def means(array: np.ndarray) -> dict[str, np.ndarray]:
        every = array.mean(axis=0)
        own = {kind: array[sources == kind] for kind in kinds[1:]}
        return {"": every} | {
            kind: (part.sum(axis=0) + PRIOR_TASKS * every) / (len(part) + PRIOR_TASKS) for kind, part in own.items()
        }

    prior, expected = means(scores), {signal: means(array) for signal, array in values.items()}
    rest = np.array([score - prior[kind] for score, kind in zip(scores, sources, strict=True)])
    design = np.stack(
        [
            np.array([x - expected[s][kind] for x, kind in zip(values[s], sources, strict=True)]).ravel()
            for s in signals
        ],
        axis=1,
    ) if signals else np.zeros((rest.size, 0))  # fmt: skip
    gram = design.T @ design
    found = np.linalg.solve(gram + RIDGE * np.diag(np.diag(gram) + 1e-12), design.T @ rest.ravel())
    residual = rest - (design @ found).reshape(rest.shape)
    covariance = residual.T @ residual / max(len(tasks) - 1 - len(signals), 1)
    covariance = (1 - SHRINK) * covariance + SHRINK * np.eye(len(order)) * np.trace(covariance) / len(order)
    return DecisionModel(
        candidates=tuple(order),
        prior={kind: np.round(mean, 5).tolist() for kind, mean in prior.items()},
        expected={kind: {s: np.round(expected[s][kind], 5).tolist() for s in signals} for kind in kinds},
        weights={s: round(float(w), 4) for s, w in zip(signals, found, strict=True)},
        covariance=np.round(covariance, 7).tolist(),
        tasks=len(tasks),
    )


@functools.cache
def load_decision_models() -> dict[str, DecisionModel]:
    """Method ('features', 'race') -> the model that the package ships; benchmarks/advice.py makes them."""
    text = (resources.files("xaitune.advise") / "decision.json").read_text(encoding="utf-8")
    return {
        method: DecisionModel(**{**values, "candidates": tuple(values["candidates"])})
        for method, values in json.loads(text).items()
    }
