"""The decision: measures of the blocks -> how many to freeze, how surely, and the paragraph of reasons."""

import dataclasses

import numpy as np
import pandas as pd

from xaitune import _machine
from xaitune.advise.advice import FreezeAdvice
from xaitune.advise.probe import (
    BLOCK_NUMBERS,
    Probe,
)
from xaitune.data.dataset import ImageData

DRAWS = 2000


def choose_block(means: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """The deepest block (1..5) whose mean is within its standard error of the best, for each row of `means` (..., 5)."""
    good = means >= means.max(axis=-1, keepdims=True) - errors
    return means.shape[-1] - np.argmax(good[..., ::-1], axis=-1)


def decide(
    scores: dict[str, np.ndarray],
    groups: np.ndarray,
    calls: int,
    measure: str,
    data: ImageData,
    probe: Probe,
    method: str,
) -> FreezeAdvice:
    names, number = np.unique(groups, return_inverse=True)
    per_seed = np.zeros((len(probe.seeds), len(names), len(BLOCK_NUMBERS)))
    for group in range(len(names)):
        per_seed[:, group] = scores["score"][:, number == group].sum(axis=1)
    size = np.bincount(number)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS)  # (draws, groups)
    drawn = np.einsum("dg,sgb->dsb", weights, per_seed) / (weights @ size)[:, None, None]
    mean = scores["score"].mean(axis=(0, 1))
    seed_mean = drawn.mean(axis=1)  # (draws, blocks)
    gap = seed_mean[:, [int(mean.argmax())]] - seed_mean
    errors = gap.std(axis=0)
    chosen = int(choose_block(mean, errors))
    votes = choose_block(drawn, errors).ravel()
    share = {b: float((votes == b).mean()) for b in BLOCK_NUMBERS}
    low, high = np.percentile(seed_mean, [2.5, 97.5], axis=0)
    table = {"score": mean, "low": low, "high": high, "behind_best": mean.max() - mean, "standard_error": errors}
    others = {k: np.nanmean(v, axis=(0, 1)) for k, v in scores.items() if k not in ("score", "zero", measure)}
    table |= others | {"empty_maps": scores["zero"].mean(axis=(0, 1))}
    evidence = pd.DataFrame(table, index=pd.Index(BLOCK_NUMBERS, name="block"))
    advice = FreezeAdvice(
        freeze_through=chosen,
        confidence=share[chosen],
        evidence=evidence,
        votes=share,
        reasons="",
        method=method,
        measure=measure,
        fingerprint=data.fingerprint,
        weights=probe.weights,
        image_size=data.image_size,
        images=len(groups),
        groups=len(names),
        model_calls=calls,
        created=_machine.now(),
    )
    return dataclasses.replace(advice, reasons=_reasons(advice, len(probe.seeds)))


def _reasons(advice: FreezeAdvice, seeds: int) -> str:
    """One paragraph in plain language, from the figures alone."""
    e, k = advice.evidence, advice.freeze_through
    best = int(e["score"].idxmax())
    what = {
        "localisation": "how well each block's heatmap finds the marked defects, beyond the same map put elsewhere",
        "mean rank": "how each block's heatmap ranks in faithfulness (weighted most), agreement, concentration and stability",
    }[advice.measure]
    text = (
        f"Measured on {advice.images} validation images of {advice.groups} groups with {seeds} probe heads: {what}. "
        f"Block {best} scores best ({e.loc[best, 'score']:.3f} [{e.loc[best, 'low']:.3f}, {e.loc[best, 'high']:.3f}]). "
    )
    if k != best:
        text += (
            f"Block {k} ({e.loc[k, 'score']:.3f}) lies within one standard error of it, "
            "and freezing deeper is cheaper to train. "
        )
    if k < 5:
        text += (
            f"From Block {k + 1} on the maps lose what the decision needs (Block {k + 1}: {e.loc[k + 1, 'score']:.3f}), "
            f"so those blocks should be trained on your images. "
        )
    else:
        text += "Even the last block's maps hold up, so training the head alone is worth trying first. "
    other = ", ".join(f"{m} {e.loc[k, m]:.2f}" for m in ("agreement", "concentration", "stability"))
    text += f"Second opinions on Block {k}: {other}. "
    empty = e["empty_maps"]
    if empty.max() > 0.05:
        text += f"Block {int(empty.idxmax())} gave empty maps for {empty.max():.0%} of the images. "
    sure = advice.confidence
    text += f"{sure:.0%} of the resampled groups and head seeds choose the same block"
    if sure < 0.5:
        second = next(b for b in advice.ranking if b != k)
        text += f": this is a weak recommendation; Block {second} is the next candidate ({advice.votes[second]:.0%})"
    return text + "."
