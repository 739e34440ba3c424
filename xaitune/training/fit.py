"""One stage of training: a model, its optimizer and its data, trained one epoch at a time."""

import functools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from xaitune.config.choices import OPTIMIZERS
from xaitune.config.settings import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.models.backend import keras
from xaitune.models.keras_private import scaled_optimizer
from xaitune.models.optimizers import optimizer_class
from xaitune.models.steps import TrainingStep
from xaitune.training.augment import epoch_rows
from xaitune.training.inputs import AugmentedImages, AugmentedViews, read_ahead, read_rows
from xaitune.training.network import Part
from xaitune.training.schedule import block_factors, epoch_rates, variable_parts
from xaitune.training.targets import make_targets

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
        self.augmented: AugmentedImages | AugmentedViews | None = None  # training inputs other than `inputs`
        optimizer_name, optimizer_options, *_ = OPTIMIZERS[optimizer]
        factors = block_factors(variable_parts(model), config.block_rates if stage == "fine-tune" else None)
        kind = scaled_optimizer(optimizer_class(optimizer_name), factors)
        self.optimizer = kind(learning_rate=rate, **optimizer_options)
        self.optimizer.build(model.trainable_variables)
        self.step = TrainingStep(part.gradients(config), self.optimizer)
        self.predict = part.predict
        self.order = functools.partial(epoch_rows, data, config if stage != "head" else TrainConfig())
        self.targets = make_targets(data, config)

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

        def read(step: int) -> tuple[np.ndarray, np.ndarray | None]:
            rows = batches[step]
            return self.augmented.read(rows, epoch, step) if self.augmented else (read_rows(self.inputs, rows), None)

        sums = np.zeros(3)
        for step, (inputs, labels) in enumerate(read_ahead(read, len(batches))):
            rows = batches[step]
            if step == 0 or rates[step] != rates[step - 1]:
                self.optimizer.learning_rate = float(rates[step])
            if self.augmented and self.augmented.prefix:
                inputs = self.augmented.prefix(inputs)
            sums += len(rows) * np.array(self.step(inputs, *self.targets.batch(rows, labels)))
        loss, accuracy, clipped = (sums / sum(map(len, batches))).tolist()
        return {"train_loss": loss, "train_accuracy": accuracy, "clipped": clipped}

    def _validate(self) -> dict[str, float]:
        """The loss (the mean of -log p of the true class) and every metric on the validation images."""
        return self.targets.validate(self.predict, self.inputs)


def _reseed_dropout(model: keras.Model, key: list[int]) -> None:
    """Set the random state of Dropout layers from (seed, stage, epoch), since no weights file holds it."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.seed_generator.state.assign(np.random.default_rng(key).integers(0, 2**31, 2, dtype=np.uint32))
