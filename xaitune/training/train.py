"""One TrainConfig -> one Run: the head alone, then Block k+1..5 with it, resumed from the last whole epoch."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from xaitune import _files, _machine
from xaitune._progress import Notes, Progress
from xaitune.config.schema import TrainConfig, replace_fields
from xaitune.data.dataset import ImageData
from xaitune.models.backend import keras
from xaitune.models.blocks import freeze_blocks
from xaitune.models.precision import describe, resolve_precision, with_precision
from xaitune.models.predict import Predictor
from xaitune.models.steps import training_scope
from xaitune.models.vgg import build_vgg16
from xaitune.models.weights import Backbone, load_backbone
from xaitune.stats.metrics import classification_metrics
from xaitune.training.augment import Augmenter, View
from xaitune.training.checkpoint import Checkpoint
from xaitune.training.features import FeatureCache, cut_layer, suffix_model
from xaitune.training.fit import PREDICT_BATCH, STAGES, Fit, logits_of
from xaitune.training.folder import (
    RESULT,
    choose_folder,
    is_finished,
    locked,
    run_identity,
    run_name,
    start_folder,
)
from xaitune.training.head import trained_head
from xaitune.training.inputs import AugmentedImages, AugmentedViews, ImagesOnDisk, all_images
from xaitune.training.run import Run, load_run, prediction_table
from xaitune.training.schedule import cuts_rate

FINAL_RATE_DIVISOR = 100
Augmented = AugmentedImages | AugmentedViews


def train_model(
    data: ImageData,
    config: TrainConfig | None = None,
    *,
    name: str | None = None,
    runs_dir: str | Path = "runs",
    overwrite: bool = False,
    cache_dir: str | Path | None = None,
    cache_gb: float = 20.0,
    progress: Progress | None = None,
    notes: Notes | None = None,
    **options: Any,
) -> Run:
    """Train one model and write its run folder; the same call again finds the finished run, or goes on with it.

    `options` are fields of TrainConfig. `cache_dir` (default `runs_dir`/cache) keeps frozen features, up to
    `cache_gb`. `progress(done, total, what)` counts epochs; `notes` receives lines for the user. A loss that turns
    NaN ends the run as 'diverged', which is recorded and returned. Raises InputError for a call or input that must be fixed,
    RunError for a locked folder, a full disk, or a `name` that another configuration has.
    """
    config = replace_fields(config or TrainConfig(), options)
    data.require_trainable()
    data.require_classes(config.classes_to_augment, "augment_classes")
    backbone = load_backbone(config.weights)
    identity = run_identity(config, data.config, data.fingerprint, backbone.digest)
    folder, note = choose_folder(Path(runs_dir), run_name(config), name, identity, overwrite=overwrite)
    if note and notes:
        notes(note)
    with locked(folder):
        contents = {
            "train": dataclasses.asdict(config),
            "data": dataclasses.asdict(data.config),
            "class_names": list(data.class_names),
            "identity": identity,
        }
        start_folder(folder, "run", contents, overwrite=overwrite)
        if is_finished(folder):
            if notes:
                notes(f"{folder} is finished already; it is not trained again.")
            return load_run(folder)
        cache = FeatureCache(Path(cache_dir or Path(runs_dir) / "cache"), cache_gb)
        _Training(data, config, backbone, folder, cache, progress).run()
    return load_run(folder)


class _Training:
    """The state of one training while it runs."""

    def __init__(
        self,
        data: ImageData,
        config: TrainConfig,
        backbone: Backbone,
        folder: Path,
        cache: FeatureCache,
        progress: Progress | None,
    ) -> None:
        self.data, self.config, self.folder, self.cache, self.progress = data, config, folder, cache, progress
        self.precision, self.why = resolve_precision(config.precision)
        self.backbone = backbone
        self.model = build_vgg16(
            len(data.class_names), image_size=data.image_size, head=config.head, weights=backbone, seed=config.seed
        )
        self.checkpoint = Checkpoint(folder)
        self.history: list[dict[str, Any]] = []
        self.score = -1.0  # on validation, of the stage before: a final stage that only harms changes nothing
        self.total = config.head_epochs + config.epochs + config.final_epochs
        self.images: np.ndarray | ImagesOnDisk | None = None

    def run(self) -> None:
        head = trained_head(self.model, self.data, self.config, self.precision, self.cache, self._report)
        for layer, arrays in head["weights"].items():
            self.model.get_layer(layer).set_weights(arrays)
        self.history += head["history"]
        state = "finished"
        fit, inputs = None, None
        for stage, epochs, through, rate in (
            ("fine-tune", self.config.epochs, self.config.freeze_through, self.config.rate),
            ("final", self.config.final_epochs, 0, self.config.rate / FINAL_RATE_DIVISOR),
        ):
            if stage == "final" and not epochs:
                continue
            parts, inputs = self._prepare(through)
            augmented = self._augmented(parts, through, STAGES.index(stage)) if self.config.augmentation else None
            with training_scope():
                fit = self._fit(parts[1], inputs, stage, epochs, rate, augmented)
            if fit is None:
                state = "diverged"
                break
            self.model.set_weights(parts[0].get_weights())
        self._finish(state, fit.predict if fit else None, inputs)

    def _prepare(self, through: int) -> tuple[tuple[keras.Model, keras.Model], Any]:
        """((the whole model in its precision, the part to train), the inputs of that part)."""
        freeze_blocks(self.model, through)
        features = self._features(self.data, through) if through else None
        with training_scope():
            whole = with_precision(self.model, self.precision)
            part = whole if features is None else suffix_model(whole, through)
        if features is not None:
            return (whole, part), features
        if self.images is None:
            self.images = all_images(self.data)
        return (whole, whole), self.images

    def _features(self, data: Any, through: int) -> np.ndarray | None:
        def report(done: int, total: int, what: str) -> None:
            self._report(f"{what}: {done} of {total} images")

        return self.cache.get(self.model, data, [through], self.precision, report)[through]

    def _augmented(self, parts: tuple[keras.Model, keras.Model], through: int, stage: int) -> Augmented:
        """The augmented inputs of the part to train: of cached views, or drawn anew in each step."""
        whole, part = parts
        train = self.data.indices("train")
        views = [View(self.data, self.config, view) for view in range(self.config.augmented_views)]
        prefix = None
        if part is not whole:
            room = self.cache.fits(self.model, through, len(views) * len(train), self.precision)
            features = [self._features(view, through) for view in views] if room else []
            kept = [f for f in features if f is not None]
            if kept and len(kept) == len(views):
                return AugmentedViews(kept, train, None)
            cut = whole.get_layer(cut_layer(whole, through)).output
            prefix = Predictor(keras.Model(whole.input, cut), PREDICT_BATCH)
        if views:
            return AugmentedViews(views, train, prefix)
        self.images = all_images(self.data) if self.images is None else self.images
        return AugmentedImages(self.images, Augmenter(self.data, self.config), [self.config.seed, stage], prefix)

    def _report(self, what: str) -> None:
        if self.progress:
            self.progress(len(self.history), self.total, what)

    def _fit(
        self,
        model: keras.Model,
        inputs: Any,
        stage: str,
        epochs: int,
        rate: float,
        augmented: Augmented | None = None,
    ) -> "Fit | None":
        """Train one stage, from its checkpoint where there is one. None where the loss is no longer a number."""
        config = self.config
        fit = Fit(model, inputs, self.data, config, stage, config.optimizer, rate)
        fit.augmented = augmented
        best, best_score, wait, start, cuts = fit.trained(), self.score, 0, 0, 0
        saved = self.checkpoint.load()
        if saved and STAGES.index(saved[0]["stage"]) > STAGES.index(stage):
            return fit  # a later stage was reached: its checkpoint holds all the weights
        if saved and saved[0]["stage"] == stage:
            state, arrays = saved
            self.history, best_score = state["history"], state["best_score"]
            wait, start, best = state["wait"], state["epoch"], arrays["best"]
            cuts = state.get("cuts", 0)
            fit.restore(arrays["weights"], arrays["optimizer"])
        for epoch in range(start, epochs):
            if wait >= config.patience:
                break
            row = fit.epoch(epoch, cuts)
            self.history.append(row)
            if not np.isfinite(row["train_loss"]) or not np.isfinite(row["val_loss"]):
                return None
            score = row[f"val_{config.metric}"]
            wait += 1
            if score > best_score:
                best, best_score, wait = fit.trained(), score, 0
            cuts += cuts_rate(config, epoch, wait)
            state = {
                "stage": stage,
                "epoch": epoch + 1,
                "best_score": best_score,
                "wait": wait,
                "cuts": cuts,
                "history": self.history,
            }
            arrays = {"weights": fit.trained(), "optimizer": fit.optimizer_state(), "best": best}
            self.checkpoint.save(state, arrays)
            self._report(f"{stage} {epoch + 1}/{epochs}, {config.metric} {best_score:.3f}")
        fit.restore(best)
        self.score = best_score
        return fit

    def _finish(self, state: str, predict: Callable[[np.ndarray], np.ndarray] | None, inputs: Any) -> None:
        """Write the run's files, result.json last."""
        _files.write_csv(self.folder / "history.csv", pd.DataFrame(self.history))
        metrics: dict[str, Any] = {}
        probabilities = None
        if state == "finished" and predict is not None:
            probabilities = softmax(logits_of(predict, inputs, np.arange(len(self.data.files))), axis=1)
            if not np.isfinite(probabilities).all():  # on an image that is not for validation
                state, probabilities = "diverged", None
        if probabilities is not None:
            _files.write_csv(self.folder / "predictions.csv", prediction_table(self.data, probabilities))
            for split in ("train", "validation", "test"):
                rows = self.data.indices(split)
                metrics[split] = classification_metrics(
                    self.data.labels[rows], probabilities[rows], self.data.class_names
                )
            with _files.writing(self.folder / "model.keras") as part:
                self.model.save(part)
        about = describe(self.precision) | {
            "precision_reason": self.why,
            "fingerprint": self.data.fingerprint,
            "weights": self.config.weights,
            "weights_digest": self.backbone.digest,
            "preprocessing": self.backbone.preprocessing,
            "skipped": [list(s) for s in self.data.skipped],
            "git_commit": _machine.git_commit(),
            "ended": _machine.now(),
        }
        _files.write_json(self.folder / "metadata.json", about)
        seconds = sum(row["seconds"] for row in self.history)
        _files.write_json(self.folder / RESULT, {"state": state, "metrics": metrics, "seconds": seconds})
        self.checkpoint.remove()
