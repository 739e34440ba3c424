"""The evaluation of all candidates on frozen features and in short trainings, and the advice that follows from it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune import _files, _machine, _names
from xaitune._progress import Notes, Progress, part_of
from xaitune.advise.advice import FreezeAdvice
from xaitune.advise.candidates import CANDIDATES, DEPTHS, HEADS, candidate_name, training_costs
from xaitune.advise.decision import Decision, DecisionModel, decide, load_decision_models
from xaitune.advise.drift import Drift, comparable_data, measure_drift
from xaitune.advise.masks import mask_evidence, said
from xaitune.advise.pooled import pooled_features
from xaitune.advise.probe import masks_digest
from xaitune.advise.race import plan_race, run_race
from xaitune.advise.signals import feature_signals, tangent_images
from xaitune.advise.tangent import DIRECTIONS
from xaitune.comparison.grid import cell_rates
from xaitune.config.settings import SweepConfig, TrainConfig, replace_fields
from xaitune.data.dataset import ImageData
from xaitune.data.listing import digest
from xaitune.models.weights import PREPROCESSING, Backbone, load_backbone
from xaitune.plots import figures
from xaitune.plots.block_charts import block_drift, block_finds
from xaitune.training.features import FeatureCache
from xaitune.training.folder import CONFIG, run_identity
from xaitune.training.run import Run

SIGNAL_NAMES = {
    "prior": "what other tasks suggest",
    "linear": "a linear approximation of the training",
    "short": "short trainings",
    "cost": "the cost of training",
}
DRIFT_SHARE, FEATURES_SHARE = 0.15, 0.3  # of the work: of all of it; of all but drift, where there is a race
LIKELY = 0.5  # depths with at least this chance of being near the best are not told apart


class Evaluation:
    """The evidence for every candidate on a data set, and the decision.

    `race`: the sweep that the race is part of, or None. `run`: the run that is to be trained again, or None: its weights
    are those to start from, and the images are compared with its own (see `measure_drift`).
    """

    def __init__(
        self,
        data: ImageData,
        config: TrainConfig,
        race: SweepConfig | None,
        runs_dir: str | Path,
        cache: FeatureCache,
        cost_weight: float,
        run: Run | None = None,
        notes: Notes | None = None,
    ) -> None:
        if run is not None:
            self.old = comparable_data(run, data)
            config = replace_fields(config, {"weights": str(run.path)})
        self.data, self.config, self.cache, self.cost_weight, self.run = data, config, cache, cost_weight, run
        self.drift: Drift | None = None
        self.masks: pd.DataFrame | None = None  # what heatmaps find of the masks
        self.backbone = load_backbone(config.weights, config.architecture)
        self.plan = plan_race(data, config, race, runs_dir, notes) if race else None

    @property
    def model(self) -> DecisionModel:
        """The model that weighs the evidence."""
        return load_decision_models()["features" if self.plan is None else "race"]

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the advice: equal identities give the same advice."""
        if self.plan is not None:
            identity = {**self.plan.identity, "optimizer": self.config.optimizer}
            identity["rates"] = list(cell_rates(self.plan.config, self.plan.base, self.config.optimizer))
        else:
            whole = run_identity(self.config, self.data.config, self.data.fingerprint, self.backbone.digest)
            identity = {key: whole[key] for key in ("fingerprint", "image_size", "resize", "weights", "metric")}
            identity["seed"] = self.config.seed if self.backbone.arrays is None else 0
        identity |= {"method": "race" if self.plan else "features", "model": self.model.digest}
        if self.data.masks is not None:
            identity |= {"masks": masks_digest(self.data)}
        if self.run is not None:
            text = json.dumps(_files.read_json(self.run.path / CONFIG)["identity"], sort_keys=True)
            identity |= {"retrained": digest([text])}
        return identity | {"cost_weight": self.cost_weight}

    def evidence(self, progress: Progress | None = None) -> pd.DataFrame:
        """One row per candidate: its signals, and the `cost` of its training (0..1)."""
        whole = progress
        if self.plan is not None:
            progress = part_of(whole, 0, FEATURES_SHARE)
        # Forward and backward passes cost about three forward ones.
        images, backward = len(self.data), 3 * DIRECTIONS * tangent_images(self.data)
        share = images / (images + backward)
        network, features = pooled_features(
            self.data, self.config, self.backbone, self.cache, part_of(progress, 0, share)
        )
        table = feature_signals(features, self.data, self.config, self.backbone, part_of(progress, share, 1))
        self.masks = mask_evidence(features, network.model, self.data, self.config, self.backbone)
        if self.plan is not None:
            race = run_race(
                self.plan,
                self.data,
                cache_dir=self.cache.folder,
                cache_gb=self.cache.limit / 1e9,
                progress=part_of(whole, FEATURES_SHARE, 1),
            )
            table = table.join(race[["short", "learning_rate"]])
        costs = training_costs(self.data.image_size, self.config.architecture)
        return table.assign(cost=[costs[name] for name in CANDIDATES])

    def advise(self, progress: Progress | None = None) -> FreezeAdvice:
        """The advice, with its reasons in words."""
        if self.run is not None:
            comparing = part_of(progress, 0, DRIFT_SHARE)
            self.drift = measure_drift(self.run, self.old, self.data, comparing)
            progress = part_of(progress, DRIFT_SHARE, 1)
        evidence, source, cost_weight = self.evidence(progress), source_kind(self.backbone), self.cost_weight
        depths = [str(depth) for depth in DEPTHS]
        every = decide(self.model, evidence, source, cost_weight=cost_weight)
        trained = decide(self.model, evidence, source, among=depths, cost_weight=cost_weight)
        rows = np.concatenate([self.data.indices("train"), self.data.indices("validation")])
        table = every.table.rename(columns={"expected": "score"}).drop(columns=["prior", *self.model.weights])
        groups = len(set(np.asarray(self.data.groups)[rows].tolist()))
        return FreezeAdvice(
            freeze_through=int(trained.advised),
            frozen=every.advised if every.advised in HEADS else "",
            confidence=trained.confidence,
            evidence=table.join(evidence),
            votes=every.table["best"].to_dict(),
            reasons="\n".join(
                [
                    reasons(self.model, evidence, source, every, trained, cost_weight),
                    *([said(self.masks)] if self.masks is not None else []),
                ]
            ),
            drift=self.drift.text if self.drift else "",
            retrain=self.drift.retrain if self.drift else "",
            method="race" if self.plan else "features",
            measure="expected score, relative to the mean of all",
            fingerprint=self.data.fingerprint,
            weights=self.backbone.digest,
            image_size=self.data.image_size,
            images=len(rows),
            groups=groups,
            model_calls=0,
            created=_machine.now(),
            folds=self.plan.config.folds if self.plan else None,
        )

    def draw(self, folder: Path) -> None:
        """Write what drift was found and what heatmaps find of the masks, where there is such evidence."""
        if self.drift is not None:
            _files.write_csv(folder / "drift.csv", self.drift.blocks.reset_index())
            figures.save(block_drift(self.drift.blocks), folder / "drift.png")
        if self.masks is not None:
            _files.write_csv(folder / "masks.csv", self.masks.reset_index())
            figures.save(block_finds(self.masks), folder / "masks.png")


def source_kind(backbone: Backbone) -> str:
    """The source weights as the decision model knows them: 'random', or those that share the preprocessing."""
    if backbone.arrays is None:
        return "random"
    return next((name for name, value in PREPROCESSING.items() if value == backbone.preprocessing), "")


def reasons(
    model: DecisionModel, evidence: pd.DataFrame, source: str, every: Decision, trained: Decision, cost_weight: float
) -> str:
    """A few plain sentences, from the figures alone: what to do, how sure that is, and which evidence moved it."""
    advised, table = trained.advised, trained.table
    lines = []
    if every.advised in HEADS:
        row = every.table.loc[every.advised]
        lines.append(
            f"A {candidate_name(every.advised)}, fitted on frozen features in seconds, is expected to score "
            f"{_names.points(row['regret'])} below the best of all candidates (chance of being within 1 point of it: "
            f"{row['near']:.0%})."
        )
    else:
        head = str(every.table.loc[list(HEADS), "regret"].idxmin())
        row = every.table.loc[head]
        lines.append(
            f"A {candidate_name(head)}, which trains no block, is expected to score {_names.points(row['regret'])} below the "
            f"best of all candidates (chance of being within 1 point of it: {row['near']:.0%})."
        )
    lines.append(
        f"With {frozen(advised)} the score is expected to be {_names.points(table.loc[advised, 'regret'])} below that of the "
        f"best depth (chance of being within 1 point of it: {trained.confidence:.0%})"
        + (
            f", and training takes {evidence.loc[advised, 'cost']:.0%} of the computing of all blocks."
            if int(advised)
            else "."
        )
    )
    others = [n for n in table.index if n != advised]
    near = [n for n in others if table.loc[n, "near"] >= LIKELY]
    if near:
        lines.append(f"Not told apart from it: {_names.listed([frozen(n) for n in near])}.")
    second = str((table["regret"] + cost_weight * evidence.loc[table.index, "cost"])[others].idxmin())
    moved = table.loc[advised, ["prior", *model.weights]] - table.loc[second, ["prior", *model.weights]]
    moved["cost"] = cost_weight * (evidence.loc[second, "cost"] - evidence.loc[advised, "cost"])
    said = [f"{SIGNAL_NAMES.get(str(signal), str(signal))} {value * 100:+.1f}" for signal, value in moved.items()]
    moves = [
        f"What moved it, in points against {frozen(second)}, the next best: {', '.join(said)}. "
        f"How much each of these counts was learnt from {model.tasks} tasks."
    ]
    alone = dataclasses.replace(model, weights={})
    without = decide(alone, evidence, source, among=list(table.index), cost_weight=cost_weight).advised
    if without != advised:
        moves.append(f"By what other tasks suggest alone, the advice would be {frozen(without)}.")
    return "\n".join([" ".join(lines), " ".join(moves)])


def frozen(candidate: str) -> str:
    """'Block 1-3 frozen', or 'no block frozen'."""
    return "no block frozen" if candidate == "0" else f"{candidate_name(candidate)} frozen"
