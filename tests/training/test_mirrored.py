"""Training on several devices at once, tested without GPUs on two of TensorFlow's logical CPU devices."""

import dataclasses
import json

import numpy as np
import pytest
from driving import python

SCRIPT = """
import json, sys
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from xaitune import DataConfig, ImageData, train_model
from xaitune.models import steps
from xaitune.training import network

data = ImageData.from_config(DataConfig(**json.loads(sys.argv[1])))
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
results = []
for devices in (1, 2):
    steps.gpus, steps._strategy = (lambda: devices), (lambda: strategy)
    assert steps.training_scope().__class__.__name__ == ("nullcontext" if devices == 1 else "_CurrentDistributionContext")
    options = {"weights": "slim", "head_epochs": 1, "epochs": 2, "precision": "float32", "freeze_through": 3}
    # 33 images per batch, so that the two parts always differ
    network.CLIP_NORM = 0.05  # every step is clipped
    run = train_model(data, runs_dir=f"{sys.argv[2]}/clipped{devices}", batch_size=33, **options)
    clipped = list(run.history["train_loss"])
    network.CLIP_NORM = 3.0
    run = train_model(data, runs_dir=f"{sys.argv[2]}/{devices}", batch_size=33, class_weight="balanced", **options)
    p = run.predictions[[c for c in run.predictions if c.startswith("p(")]].to_numpy().tolist()
    loss, accuracy = list(run.history["train_loss"]), list(run.history["train_accuracy"])
    results.append({"clipped": clipped, "loss": loss, "p": p, "accuracy": accuracy})
print(json.dumps(results))
"""


def test_two_devices_train_as_one_does(demo, tmp_path):
    config = json.dumps(dataclasses.asdict(demo.config))
    one, two = json.loads(python(SCRIPT, config, tmp_path).splitlines()[-1])
    assert one["loss"] == pytest.approx(two["loss"], abs=1e-4)
    assert one["clipped"] == pytest.approx(two["clipped"], abs=1e-4)
    assert one["accuracy"] == pytest.approx(two["accuracy"], abs=0.02)
    np.testing.assert_allclose(one["p"], two["p"], atol=1e-3)
