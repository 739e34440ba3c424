"""The network that a process trains, run after run: built, cut and traced once."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from xaitune.config.choices import LOSSES
from xaitune.config.settings import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.data.pixel_labels import labels_of_pixels
from xaitune.models.backend import keras
from xaitune.models.blocks import BLOCKS, freeze_blocks
from xaitune.models.pixel_losses import pixel_loss
from xaitune.models.precision import copy_layers, with_precision
from xaitune.models.predict import Predictor
from xaitune.models.scratch import build_scratch
from xaitune.models.steps import Gradients, training_scope
from xaitune.models.unet import build_unet, is_unet
from xaitune.models.vgg import build_vgg16, reset_weights
from xaitune.models.weights import Backbone
from xaitune.training.cut import cut_output, suffix_model
from xaitune.training.inputs import PREDICT_BATCH
from xaitune.training.schedule import variable_parts

CLIP_NORM = (
    3.0  # of the gradient of each block and of the head: without batch normalisation one bad batch could ruin it
)


class Part:
    """A model to train, whose predictions and gradients are traced once."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self._gradients: dict[Any, Gradients] = {}

    @functools.cached_property
    def predict(self) -> Predictor:
        """Inputs of the model -> logits."""
        return Predictor(self.model, PREDICT_BATCH)

    def gradients(self, config: TrainConfig) -> Gradients:
        """The gradients of the loss that `config` names."""
        key = config.loss, config.label_smoothing
        if key not in self._gradients:
            name, _, options = LOSSES[config.loss]
            if config.label_smoothing:
                options = {**options, "label_smoothing": config.label_smoothing}
            loss: Callable[..., Any]
            if is_unet(self.model):
                loss = pixel_loss(config.loss, self.model.output_shape[-1], config.label_smoothing)
            else:
                loss = getattr(keras.losses, name)(from_logits=True, **options)
            self._gradients[key] = Gradients(self.model, loss, CLIP_NORM, variable_parts(self.model))
        return self._gradients[key]


class Network:
    """A float32 VGG16, and the parts of it that are trained in `precision`, each cut and traced once.

    In float32 the parts share the model's layers. In bfloat16, and on several GPUs, they share those of a copy, whose
    weights `collect` brings back.
    """

    def __init__(self, model: keras.Model, precision: str) -> None:
        self.model, self.precision = model, precision
        self._parts: dict[tuple[int, bool, tuple[int, ...]], Part] = {}
        self._prefixes: dict[int, Predictor] = {}

    def part(self, through: int, *, cut: bool = True, also: tuple[int, ...] = ()) -> Part:
        """The part after Block `through` as it is now, or the whole model unless `cut`.

        Block 1..`through` and the blocks in `also` are frozen.
        """
        freeze_blocks(self.model, through, also)
        copy_layers(self.model.layers, self._computing.layers)
        key = through, cut, also
        if key not in self._parts:
            self._parts[key] = Part(suffix_model(self._computing, through) if cut else self._computing)
        return self._parts[key]

    def prefix(self, through: int) -> Predictor:
        """Images -> the inputs of the part after Block `through`."""
        if through not in self._prefixes:
            outputs = cut_output(self._computing, through)
            self._prefixes[through] = Predictor(keras.Model(self._computing.input, outputs), PREDICT_BATCH)
        return self._prefixes[through]

    def collect(self) -> None:
        """Bring the weights that the parts have now into the model."""
        copy_layers(self._computing.layers, self.model.layers)

    @functools.cached_property
    def _computing(self) -> keras.Model:
        with training_scope() as mirrored:
            if self.precision == "float32" and mirrored is None:
                return self.model
            return with_precision(self.model, self.precision)


Networks = dict[Any, Network]  # the last one only, for the next run


def network_for(
    data: ImageData, config: TrainConfig, backbone: Backbone, precision: str, networks: Networks
) -> Network:
    """A network with the weights that a run starts from: that in `networks`, if it has the same shapes, or a new one.

    Only a network that later runs can use is kept there: not one with a random base or a decoder, nor one with a linear head,
    whose statistics become constants when it is traced.
    """
    key = len(data.class_names), data.image_size, config.head, backbone.digest, precision
    if config.segments:
        return Network(build_for(data, config, backbone), precision)
    if key in networks:
        reset_weights(networks[key].model, backbone, config.seed)
        return networks[key]
    networks.clear()
    network = Network(build_for(data, config, backbone), precision)
    if backbone.arrays and config.head != "blocks":
        networks[key] = network
    return network


def build_for(
    data: ImageData, config: TrainConfig, backbone: Backbone, head_blocks: Sequence[int] = BLOCKS
) -> keras.Model:
    """The model that a run starts from; `head_blocks`: the blocks whose features the head 'blocks' takes."""
    if config.segments:
        classes = len(labels_of_pixels(data).class_names)
        return build_unet(classes, image_size=data.image_size, weights=backbone, seed=config.seed)
    if config.from_scratch:
        return build_scratch(config.architecture, len(data.class_names), image_size=data.image_size, seed=config.seed)
    return build_vgg16(
        len(data.class_names),
        image_size=data.image_size,
        head=config.head,
        head_blocks=head_blocks,
        weights=backbone,
        seed=config.seed,
    )
