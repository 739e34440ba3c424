"""Gradients with respect to activations: every image has its own, whatever the number of units and images."""

import numpy as np
import pytest

from xaitune.models.backend import keras
from xaitune.models.gradients import ActivationGradients


@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize("index", [-1, 0])
def test_each_image_has_the_gradient_it_has_alone(units, index):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    hidden = keras.layers.Conv2D(4, 3, activation="relu", name="tap")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(units)(keras.layers.GlobalAveragePooling2D()(hidden)))
    gradients = ActivationGradients(model, ["tap"])
    images = np.random.default_rng(0).random((4, 8, 8, 3)).astype(np.float32)
    (((_, together),), _) = gradients(images, np.full(4, index))
    for i in range(4):
        (((_, alone),), _) = gradients(images[i : i + 1], np.full(1, index))
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-5)
        assert np.abs(alone).max() > 0
