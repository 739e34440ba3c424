"""One stage of training: a model, its optimizer and its data, trained one epoch at a time."""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from scipy.special import softmax

from xaitune.config.choices import LOSSES, METRICS, OPTIMIZERS
from xaitune.config.settings import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.models.backend import keras
from xaitune.models.keras_private import scaled_optimizer
from xaitune.models.optimizers import optimizer_class
from xaitune.models.steps import TrainingStep
from xaitune.stats.metrics import confusion, scores_from_confusion
from xaitune.training.augment import epoch_rows
from xaitune.training.inputs import AugmentedImages, AugmentedViews
from xaitune.training.network import PREDICT_BATCH, Part
from xaitune.training.schedule import block_factors, epoch_rates, variable_parts

CLIPPING = "each block"  # recorded with a run: before, one norm over all variables was clipped
STAGES = ("head", "fine-tune", "final")


class Fit:
    """Trains a model one epoch at a time, in an order of the images that (seed, stage, epoch) determines."""

    def __init__(
        self,
        part: Part,
        inputs: Any,
        data: ImageData,
        config: TrainConfig,
        stage: str,
        optimizer: str,
        rate: float,
    ) -> None:
        model = part.model
        self.model, self.inputs, self.config, self.stage, self.rate = model, inputs, config, stage, rate
        self.num_classes = len(data.class_names)
        self.augmented: AugmentedImages | AugmentedViews | None = None  # training inputs other than `inputs`
        optimizer_name, optimizer_options, *_ = OPTIMIZERS[optimizer]
        factors = block_factors(variable_parts(model), config.block_rates if stage == "fine-tune" else None)
        kind = scaled_optimizer(optimizer_class(optimizer_name), factors)
        self.optimizer = kind(learning_rate=rate, **optimizer_options)
        self.optimizer.build(model.trainable_variables)
        self.step = TrainingStep(part.gradients(config), self.optimizer)
        self.predict = part.predict
        self.labels = data.labels
        self.targets = (
            np.eye(self.num_classes, dtype=np.float32)[data.labels] if LOSSES[config.loss][1] else data.labels
        )
        self.validation = data.indices("validation")
        self.order = functools.partial(epoch_rows, data, config if stage != "head" else TrainConfig())
        self.sample_weight = image_weights(data, config)

    def optimizer_state(self) -> list[np.ndarray]:
        """The optimizer's variables."""
        return [np.array(keras.ops.convert_to_numpy(v)) for v in self.optimizer.variables]

    def trained_weights(self) -> list[np.ndarray]:
        """The weights that training changes: the same ones whether or not the frozen features are cached."""
        return [np.array(keras.ops.convert_to_numpy(v)) for v in self._changing]

    @property
    def _changing(self) -> list[Any]:
        """The trainable variables, and the moving statistics of batch normalisation that is not frozen."""
        moving = [
            variable
            for layer in self.model.layers
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
            for variable in layer.non_trainable_variables
        ]
        return [*self.model.trainable_variables, *moving]

    def restore(self, weights: list[np.ndarray], optimizer: Sequence[np.ndarray] = ()) -> None:
        """Set the trained weights, and the optimizer's variables if they are given."""
        for variable, value in zip(self._changing, weights, strict=True):
            variable.assign(value)
        for variable, value in zip(self.optimizer.variables, optimizer, strict=False):
            variable.assign(value)

    def rates(self, epoch: int, steps: int, cuts: int) -> np.ndarray:
        """The learning rate of each step of an epoch; only stage (b) has a schedule."""
        if self.stage != "fine-tune":
            return np.full(steps, self.rate)
        return epoch_rates(self.config, self.rate, epoch, steps, cuts)

    def epoch(self, epoch: int, cuts: int = 0) -> dict[str, Any]:
        """Train one epoch and validate: one row of the history. `cuts`: how often a plateau has cut the rate so far."""
        start = time.perf_counter()
        key = [self.config.seed, STAGES.index(self.stage), epoch]
        order = self.order(np.random.default_rng(key))
        _reseed_dropout(self.model, key)
        firsts = range(0, len(order), self.config.batch_size)
        batches = [order[first : first + self.config.batch_size] for first in firsts]
        rates = self.rates(epoch, len(batches), cuts)
        row = {"stage": self.stage, "epoch": epoch + 1, **self._train_epoch(epoch, batches, rates), **self._validate()}
        row["learning_rate"] = float(rates.mean()) if np.ptp(rates) else float(rates[0])
        return row | {"seconds": time.perf_counter() - start}

    def _train_epoch(self, epoch: int, batches: Sequence[np.ndarray], rates: np.ndarray) -> dict[str, float]:
        """Train on all `batches` of rows; returns the loss and accuracy on the training images, and the clipped share."""

        def read_batch(step: int) -> np.ndarray:
            rows = batches[step]
            return self.augmented.read(rows, epoch, step) if self.augmented else _batch(self.inputs, rows)

        sums = np.zeros(3)
        for step, inputs in enumerate(_read_ahead(read_batch, len(batches))):
            rows = batches[step]
            if step == 0 or rates[step] != rates[step - 1]:
                self.optimizer.learning_rate = float(rates[step])
            if self.augmented and self.augmented.prefix:
                inputs = self.augmented.prefix(inputs)
            sums += len(rows) * np.array(self.step(inputs, self.targets[rows], self.sample_weight[rows]))
        loss, accuracy, clipped = (sums / sum(map(len, batches))).tolist()
        return {"train_loss": loss, "train_accuracy": accuracy, "clipped": clipped}

    def _validate(self) -> dict[str, float]:
        """The loss (the mean of -log p of the true class) and every metric on the validation images."""
        return validation_scores(logits_of(self.predict, self.inputs, self.validation), self.labels[self.validation])


def image_weights(data: ImageData, config: TrainConfig) -> np.ndarray:
    """The weight of each image in the loss (images,), that of its class, by the frequencies f of the training images.

    class_weight 'balanced': 1 / (f * classes); 'share': 1 - f, as a study of animal X-rays has it; named weights: those,
    and 1 for the other classes; None: 1.
    """
    counts = np.bincount(data.labels[data.indices("train")], minlength=len(data.class_names))
    if config.class_weight == "balanced":
        weights = counts.sum() / (len(counts) * np.maximum(counts, 1))
    elif config.class_weight == "share":
        weights = 1 - counts / counts.sum()
    else:
        named = config.weights_by_class
        weights = np.array([named.get(name, 1.0) for name in data.class_names])
    return weights[data.labels].astype(np.float32)


def mean_loss(logits: np.ndarray, true: np.ndarray) -> float:
    """The mean of -log p of the true class, for logits (n, classes) and class numbers (n,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(-np.log(np.maximum(softmax(logits, axis=1)[np.arange(len(true)), true], 1e-12)).mean())


def validation_scores(logits: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """The columns of the history about the validation images: the loss and every metric."""
    matrix = confusion(true, logits.argmax(axis=1), logits.shape[1])
    scores = {f"val_{metric}": float(scores_from_confusion(matrix, metric)) for metric in METRICS}
    return {"val_loss": mean_loss(logits, true), **scores}


def train_scores(logits: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """The columns of the history about the training images, for a head that is not trained step by step."""
    return {"train_loss": mean_loss(logits, true), "train_accuracy": float((logits.argmax(axis=1) == true).mean())}


def _reseed_dropout(model: keras.Model, key: list[int]) -> None:
    """Set the random state of Dropout layers from (seed, stage, epoch), since no weights file holds it."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.seed_generator.state.assign(np.random.default_rng(key).integers(0, 2**31, 2, dtype=np.uint32))


def _batch(inputs: Any, rows: np.ndarray) -> np.ndarray:
    """The inputs at `rows`; images as float32, features in the precision in which they are cached."""
    batch = np.asarray(inputs[rows])
    return batch.astype(np.float32) if batch.dtype == np.uint8 else batch


def logits_of(predict: Callable[[np.ndarray], np.ndarray], inputs: Any, rows: np.ndarray) -> np.ndarray:
    """(rows, classes) logits of the images or features at `rows`, as float64."""
    batches = [rows[i : i + PREDICT_BATCH] for i in range(0, len(rows), PREDICT_BATCH)]
    logits = [predict(batch) for batch in _read_ahead(lambda i: _batch(inputs, batches[i]), len(batches))]
    return np.concatenate(logits).astype(np.float64)


def _read_ahead(read: Callable[[int], np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Yield `read` of 0, 1, ..; a thread reads each one while the one before is in use, so no step waits for the disk."""
    with ThreadPoolExecutor(1) as reader:
        pending = reader.submit(read, 0)
        for number in range(1, count):
            ready, pending = pending.result(), reader.submit(read, number)
            yield ready
        yield pending.result()
