"""One stage of training: a model, its optimizer and its data, an epoch at a time."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from scipy.special import softmax

from xaitune.config.choices import LOSSES, METRICS, OPTIMIZERS
from xaitune.config.schema import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.models.backend import keras
from xaitune.models.keras_private import scaled_optimizer
from xaitune.models.predict import Predictor
from xaitune.models.steps import TrainingStep
from xaitune.stats.metrics import confusion, scores_from_confusion
from xaitune.training.inputs import AugmentedImages, AugmentedViews
from xaitune.training.schedule import block_factors, epoch_rates

CLIP_NORM = 3.0  # of the whole gradient: VGG16 has no batch normalisation, and a first bad batch could wreck it
PREDICT_BATCH = 64
STAGES = ("head", "fine-tune", "final")


class Fit:
    """A model, its optimizer and its data: one epoch at a time, its order fixed by (seed, stage, epoch)."""

    def __init__(
        self,
        model: keras.Model,
        inputs: Any,
        data: ImageData,
        config: TrainConfig,
        stage: str,
        optimizer: str,
        rate: float,
    ) -> None:
        self.model, self.inputs, self.config, self.stage, self.rate = model, inputs, config, stage, rate
        self.num_classes = len(data.class_names)
        self.augmented: AugmentedImages | AugmentedViews | None = None  # training inputs, where they are not `inputs`
        kind, options, _ = OPTIMIZERS[optimizer]
        loss, one_hot, arguments = LOSSES[config.loss]
        if config.label_smoothing:
            arguments = {**arguments, "label_smoothing": config.label_smoothing}
        factors = block_factors(model, config.block_rates if stage == "fine-tune" else None)
        made = scaled_optimizer(getattr(keras.optimizers, kind), factors)
        self.optimizer = made(learning_rate=rate, **options)
        self.optimizer.build(model.trainable_variables)
        criterion = getattr(keras.losses, loss)(from_logits=True, **arguments)
        self.step = TrainingStep(model, self.optimizer, criterion, CLIP_NORM)
        self.predict = Predictor(model, PREDICT_BATCH)
        self.labels = data.labels
        self.targets = np.eye(self.num_classes, dtype=np.float32)[data.labels] if one_hot else data.labels
        self.train, self.validation = data.indices("train"), data.indices("validation")
        self.sample_weight = np.ones(len(data.labels), np.float32)
        if config.class_weight == "balanced":
            counts = np.bincount(self.labels[self.train], minlength=self.num_classes)
            self.sample_weight = (len(self.train) / (self.num_classes * np.maximum(counts, 1)))[self.labels].astype(
                np.float32
            )

    def optimizer_state(self) -> list[np.ndarray]:
        """The optimizer's variables."""
        return [np.array(keras.ops.convert_to_numpy(v)) for v in self.optimizer.variables]

    def trained(self) -> list[np.ndarray]:
        """The weights that are trained: the same ones whether or not the frozen features are cached."""
        return [np.array(keras.ops.convert_to_numpy(v)) for v in self.model.trainable_variables]

    def restore(self, weights: list[np.ndarray], optimizer: Sequence[np.ndarray] = ()) -> None:
        """Set the trained weights, and the optimizer's variables where they are given."""
        for variable, value in zip(self.model.trainable_variables, weights, strict=True):
            variable.assign(value)
        for variable, value in zip(self.optimizer.variables, optimizer, strict=False):
            variable.assign(value)

    def rates(self, epoch: int, steps: int, cuts: int) -> np.ndarray:
        """The learning rate of each step of an epoch; only stage (b) has a schedule."""
        if self.stage != "fine-tune":
            return np.full(steps, self.rate)
        return epoch_rates(self.config, self.rate, epoch, steps, cuts)

    def epoch(self, epoch: int, cuts: int = 0) -> dict[str, Any]:
        """Train one epoch and measure it on validation: one row of the history. `cuts`: of the rate, by a plateau."""
        start = time.perf_counter()
        key = [self.config.seed, STAGES.index(self.stage), epoch]
        order = np.random.default_rng(key).permutation(self.train)
        _reseed_dropout(self.model, key)
        sums = np.zeros(2)
        firsts = range(0, len(order), self.config.batch_size)
        rates = self.rates(epoch, len(firsts), cuts)
        batches = [order[first : first + self.config.batch_size] for first in firsts]

        def read(step: int) -> np.ndarray:
            rows = batches[step]
            return self.augmented.read(rows, epoch, step) if self.augmented else _batch(self.inputs, rows)

        for step, inputs in enumerate(_ahead(read, len(batches))):
            rows = batches[step]
            if step == 0 or rates[step] != rates[step - 1]:
                self.optimizer.learning_rate = float(rates[step])
            if self.augmented and self.augmented.prefix:
                inputs = self.augmented.prefix(inputs)
            sums += len(rows) * np.array(self.step(inputs, self.targets[rows], self.sample_weight[rows]))
        logits = logits_of(self.predict, self.inputs, self.validation)
        true = self.labels[self.validation]
        matrix = confusion(true, logits.argmax(axis=1), self.num_classes)
        with np.errstate(divide="ignore", invalid="ignore"):
            loss = float(-np.log(np.maximum(softmax(logits, axis=1)[np.arange(len(true)), true], 1e-12)).mean())
        row = {"stage": self.stage, "epoch": epoch + 1}
        row |= dict(zip(("train_loss", "train_accuracy"), (sums / len(order)).tolist(), strict=True)) | {
            "val_loss": loss
        }
        row |= {f"val_{metric}": float(scores_from_confusion(matrix, metric)) for metric in METRICS}
        row["learning_rate"] = float(rates.mean()) if np.ptp(rates) else float(rates[0])
        return row | {"seconds": time.perf_counter() - start}


def _reseed_dropout(model: keras.Model, key: list[int]) -> None:
    """A Dropout layer's own random state is in no weights file: set it from (seed, stage, epoch)."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.seed_generator.state.assign(np.random.default_rng(key).integers(0, 2**31, 2, dtype=np.uint32))


def _batch(inputs: Any, rows: np.ndarray) -> np.ndarray:
    batch = np.asarray(inputs[rows])
    return batch.astype(np.float32) if batch.dtype == np.uint8 else batch


def logits_of(predict: Callable[[np.ndarray], np.ndarray], inputs: Any, rows: np.ndarray) -> np.ndarray:
    """(rows, classes) logits of the images or features at `rows`, as float64."""
    batches = [rows[i : i + PREDICT_BATCH] for i in range(0, len(rows), PREDICT_BATCH)]
    out = [predict(x) for x in _ahead(lambda i: _batch(inputs, batches[i]), len(batches))]
    return np.concatenate(out).astype(np.float64)


def _ahead(read: Callable[[int], np.ndarray], count: int) -> Iterator[np.ndarray]:
    """`read` of 0, 1, .., each while the one before is in use: no step waits for the disk, or for a decoder."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, 0)
        for following in range(1, count):
            ready, coming = coming.result(), reader.submit(read, following)
            yield ready
        yield coming.result()
