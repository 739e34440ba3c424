"""The frozen network that all advice looks through, and the pooled features of its blocks."""

import numpy as np

from xaitune._progress import Progress
from xaitune.comparison.grid import frozen_runs
from xaitune.config.settings import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.errors import ConfigError
from xaitune.models.precision import resolve_precision
from xaitune.models.weights import Backbone
from xaitune.training.features import FeatureCache
from xaitune.training.head import block5_features
from xaitune.training.network import Network, build_for


def pooled_features(
    data: ImageData, config: TrainConfig, backbone: Backbone, cache: FeatureCache, progress: Progress | None = None
) -> tuple[Network, np.ndarray]:
    """The frozen network with the head 'blocks', and what that head takes of every image, (n, features) float32.

    Raises ConfigError for a network that begins at random weights and has no frozen blocks.
    """
    if config.from_scratch:
        raise ConfigError(
            f"Frozen features need a pretrained VGG, such as architecture vgg16. Received: {config.architecture}."
        )
    if config.segments:
        raise ConfigError("This looks at the classes of images, not of pixels: give --task classify.")
    network = Network(build_for(data, frozen_runs(config)[0], backbone), resolve_precision(config.precision)[0])
    return network, np.asarray(block5_features(network, data, cache, progress), np.float32)
