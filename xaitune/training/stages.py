"""The stages of one training: the head alone, then Block k+1..5 with it, resumable after every complete epoch."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from xaitune import _files, _machine
from xaitune._progress import Progress
from xaitune.config.settings import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.models.blocks import freeze_blocks
from xaitune.models.precision import describe, resolve_precision
from xaitune.models.predict import Predictor
from xaitune.models.steps import training_scope
from xaitune.models.weights import Backbone
from xaitune.tracking.follow import Follower
from xaitune.training.augment import Augmenter, View
from xaitune.training.card import CARD, card_text
from xaitune.training.checkpoint import Checkpoint
from xaitune.training.cut import pooled_columns, suffix_model
from xaitune.training.features import FeatureCache
from xaitune.training.fit import CLIPPING, STAGES, Fit
from xaitune.training.folder import (
    RESULT,
    is_linear,
)
from xaitune.training.head import block5_features, set_head, trained_head
from xaitune.training.inputs import AugmentedImages, AugmentedViews, ImagesOnDisk, all_images
from xaitune.training.network import Network, Part, build_for
from xaitune.training.schedule import cuts_rate
from xaitune.training.targets import class_names, make_targets

SAVE_SECONDS = 10.0  # a kill loses at most the epoch in progress, or this long where epochs are shorter
FINAL_RATE_DIVISOR = 100  # of the fine-tuning rate, in the final stage
Augmented = AugmentedImages | AugmentedViews


class _Stage(NamedTuple):
    """A stage of training after the head's."""

    name: str
    epochs: int
    through: int  # Block 1..`through` are frozen
    also: tuple[int, ...]  # and these
    rate: float


@dataclasses.dataclass
class _StageState:
    """How far a stage has come, as its checkpoint records it, together with the weights and the optimizer's state."""

    best: list[np.ndarray]  # the trained weights with the best validation score
    best_score: float
    epoch: int = 0  # epochs trained
    wait: int = 0  # epochs in a row without a better score
    cuts: int = 0  # of the rate, by the plateau schedule


class _Paused(Exception):
    """Training has reached the epoch after which it pauses."""


class Training:
    """The state of one training while it runs."""

    def __init__(
        self,
        data: ImageData,
        config: TrainConfig,
        backbone: Backbone,
        network: Network,
        folder: Path,
        cache: FeatureCache,
        follower: Follower,
        progress: Progress | None,
        pause: int | None,
    ) -> None:
        self.data, self.config, self.folder, self.cache, self.progress = data, config, folder, cache, progress
        self.follower = follower
        self.pause = pause  # the number of epochs of fine-tuning after which training pauses
        self.backbone, self.network = backbone, network
        self.head_inputs: np.ndarray | None = None  # of a linear head on the features of one block
        self.linear_head: dict[str, Any] = {}
        self.saved = time.monotonic()  # when the last checkpoint was written, or training began
        self.checkpoint = Checkpoint(folder)
        self.history: list[dict[str, Any]] = []
        self.score = -1.0  # on validation, of the stage before: a stage that brings no gain changes nothing
        head_epochs = 1 if config.head == "blocks" else config.head_epochs
        self.total = head_epochs + (0 if is_linear(config) else config.epochs) + config.final_epochs
        self.images: np.ndarray | ImagesOnDisk | None = None

    def run(self) -> None:
        """Train all stages and write the run's files, or those of a paused run."""
        if not self.config.from_scratch:  # a head on random features would learn nothing that lasts
            self._train_head()
        if not self._stages():
            self._finish(*self._linear_predictor())
            return
        fit, inputs = None, None
        for stage in self._stages():
            part, inputs = self._prepare(stage)
            augmented = self._augmented(stage, inputs) if self.config.augmentation else None
            try:
                with training_scope():
                    fit = self._fit(part, inputs, stage, augmented)
            except _Paused:
                self._write_history()
                return
            if fit is None:
                break
            self.network.collect()
        self._finish(fit.predict if fit else None, inputs)

    def _train_head(self) -> None:
        head = trained_head(self.network, self.data, self.config, self.cache, self._report)
        self.linear_head = {key: head[key] for key in ("blocks", "penalty", "score") if key in head}
        if self.config.head_blocks == "best":
            (block,) = head["blocks"]
            features = block5_features(self.network, self.data, self.cache)
            self.head_inputs = features[:, pooled_columns(self.backbone.channels, block)]
            self.network = Network(build_for(self.data, self.config, self.backbone, (block,)), self.network.precision)
        set_head(self.network.model, head)
        self.history += head["history"]
        self.follower.epochs(self.history)
        if self.history:  # the head alone is a candidate like any epoch after it
            self.score = self.history[-1][f"val_{self.config.metric}"]

    def _linear_predictor(self) -> tuple[Predictor, np.ndarray]:
        """The predictor of a linear head on frozen features, and its inputs."""
        inputs = self.head_inputs
        if inputs is None:
            freeze_blocks(self.network.model, 5)
            inputs = block5_features(self.network, self.data, self.cache)
        return Part(suffix_model(self.network.model, 5)).predict, inputs

    def _stages(self) -> list[_Stage]:
        config = self.config
        stages = [_Stage("fine-tune", config.epochs, config.freeze_through, config.frozen_above, config.rate)]
        if config.head == "blocks" and config.freeze_through == 5:
            stages = []  # the head has been fitted, and nothing else is trained
        if config.final_epochs:
            stages.append(_Stage("final", config.final_epochs, 0, (), config.rate / FINAL_RATE_DIVISOR))
        return stages

    def _prepare(self, stage: _Stage) -> tuple[Part, Any]:
        """(the part of the network to train; the inputs of that part)."""
        features = self._features(self.data, stage.through) if stage.through else None
        part = self.network.part(stage.through, cut=features is not None, also=stage.also)
        return part, self._all_images() if features is None else features

    def _all_images(self) -> np.ndarray | ImagesOnDisk:
        if self.images is None:
            self.images = all_images(self.data)
        return self.images

    def _features(self, data: Any, through: int) -> Any:
        def report_images(done: int, total: int, what: str) -> None:
            self._report(f"{what}: {done} of {total} images")

        return self.cache.get(self.network.model, data, [through], self.network.precision, report_images)[through]

    def _augmented(self, stage: _Stage, inputs: Any) -> Augmented:
        """The augmented inputs of the part to train: from cached views, or drawn anew in each step."""
        train = self.data.indices("train")
        views = [View(self.data, self.config, view) for view in range(self.config.augmented_views)]
        prefix = None
        if stage.through and inputs is not self.images:
            features = self._view_features(views, stage.through)
            if features:
                return AugmentedViews(views, train, None, features)
            prefix = self.network.prefix(stage.through)
        if views:
            return AugmentedViews(views, train, prefix)
        key = [self.config.seed, STAGES.index(stage.name)]
        return AugmentedImages(self._all_images(), Augmenter(self.data, self.config), key, prefix)

    def _view_features(self, views: list[View], through: int) -> list[Any]:
        """The frozen features of all views, or an empty list if they do not all fit into the cache."""
        images = len(views) * len(self.data.indices("train"))
        if not self.cache.fits(self.network.model, through, images, self.network.precision):
            return []
        features = [self._features(view, through) for view in views]
        cached = [f for f in features if f is not None]
        return cached if len(cached) == len(views) else []

    def _report(self, what: str) -> None:
        if self.progress:
            self.progress(len(self.history), self.total, what)

    def _fit(self, part: Part, inputs: Any, stage: _Stage, augmented: Augmented | None) -> Fit | None:
        """Train one stage, from its checkpoint if there is one. None if a loss is not finite."""
        fit = Fit(part, inputs, self.data, self.config, stage.name, self.config.optimizer, stage.rate)
        fit.augmented = augmented
        state = _StageState(fit.trained_weights(), self.score)
        saved = self.checkpoint.load()
        if saved:
            values, arrays = saved
            if STAGES.index(values["stage"]) > STAGES.index(stage.name):
                return fit  # a later stage was reached, whose checkpoint holds all the weights
            if values["stage"] == stage.name:
                state = self._resume(fit, values, arrays)
        while state.epoch < stage.epochs and state.wait < self.config.patience:
            if self.pause is not None and state.epoch >= self.pause and stage.name == "fine-tune":
                self._save_checkpoint(fit, stage, state)
                raise _Paused
            if not self._train_epoch(fit, stage, state):
                return None
        fit.restore(state.best)
        self.score = state.best_score
        return fit

    def _resume(self, fit: Fit, values: dict[str, Any], arrays: dict[str, list[np.ndarray]]) -> _StageState:
        """Restore the history and `fit` from a checkpoint of the stage; returns how far the stage had come."""
        self.history = values["history"]
        fit.restore(arrays["weights"], arrays["optimizer"])
        return _StageState(
            best=arrays["best"],
            best_score=values["best_score"],
            epoch=values["epoch"],
            wait=values["wait"],
            cuts=values.get("cuts", 0),  # absent from older checkpoints
        )

    def _train_epoch(self, fit: Fit, stage: _Stage, state: _StageState) -> bool:
        """Train the next epoch and save the checkpoint. False if a loss is not finite."""
        row = fit.epoch(state.epoch, state.cuts)
        self.history.append(row)
        self.follower.epochs(self.history)
        if not np.isfinite(row["train_loss"]) or not np.isfinite(row["val_loss"]):
            return False
        score = row[f"val_{self.config.metric}"]
        state.wait += 1
        if score > state.best_score:
            state.best, state.best_score, state.wait = fit.trained_weights(), score, 0
        state.cuts += cuts_rate(self.config, state.epoch, state.wait)
        state.epoch += 1
        if time.monotonic() - self.saved >= SAVE_SECONDS:
            self._save_checkpoint(fit, stage, state)
        self._report(f"{stage.name} {state.epoch}/{stage.epochs}, {self.config.metric} {state.best_score:.3f}")
        return True

    def _save_checkpoint(self, fit: Fit, stage: _Stage, state: _StageState) -> None:
        values = {
            "stage": stage.name,
            "epoch": state.epoch,
            "best_score": state.best_score,
            "wait": state.wait,
            "cuts": state.cuts,
            "history": self.history,
        }
        arrays = {"weights": fit.trained_weights(), "optimizer": fit.optimizer_state(), "best": state.best}
        self.checkpoint.save(values, arrays)
        self.saved = time.monotonic()

    def _finish(self, predict: Callable[[np.ndarray], np.ndarray] | None, inputs: Any) -> None:
        """Write the run's files, result.json last. Without `predict`, or if a prediction is not finite, it has diverged."""
        self._write_history()
        state, metrics = "diverged", {}
        results = make_targets(self.data, self.config).judge(predict, inputs) if predict is not None else None
        if results is not None:  # finite, also on images outside the validation split
            state, metrics = "finished", results.metrics
            self._write_predictions_and_model(results.predictions)
            self._write_card(results.predictions)
        seconds = sum(row["seconds"] for row in self.history)
        _files.write_json(self.folder / RESULT, {"state": state, "metrics": metrics, "seconds": seconds})
        self.checkpoint.remove()

    def _write_history(self) -> None:
        """Write history.csv and metadata.json."""
        _files.write_csv(self.folder / "history.csv", pd.DataFrame(self.history))
        _files.write_json(self.folder / "metadata.json", self._metadata())

    def _write_predictions_and_model(self, predictions: pd.DataFrame) -> None:
        """Write predictions.csv and model.keras."""
        _files.write_csv(self.folder / "predictions.csv", predictions)
        with _files.writing(self.folder / "model.keras") as part:
            self.network.model.save(part)

    def _write_card(self, predictions: pd.DataFrame) -> None:
        """Write model-card.md."""
        names = class_names(self.data, self.config)
        text = card_text(self.data, self.config, names, predictions, self._metadata())
        _files.write_bytes(self.folder / CARD, text.encode("utf-8"))

    def _metadata(self) -> dict[str, Any]:
        """Versions, machine and inputs of the run, for metadata.json."""
        return describe(self.network.precision) | {
            "precision_reason": resolve_precision(self.config.precision)[1],
            "fingerprint": self.data.fingerprint,
            "weights": self.config.weights,
            "weights_digest": self.backbone.digest,
            "preprocessing": self.backbone.preprocessing,
            "clipping": CLIPPING,
            "skipped": [list(s) for s in self.data.skipped],
            "git_commit": _machine.git_commit(),
            "ended": _machine.now(),
            **({"linear_head": self.linear_head} if self.linear_head else {}),
        }
