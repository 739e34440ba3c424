import dataclasses

import numpy as np
import pytest

from xaitune.config.settings import TrainConfig
from xaitune.models.vgg import build_vgg16, reset_weights
from xaitune.models.weights import load_backbone
from xaitune.training.network import Network
from xaitune.training.train import train_until

OPTIONS = {"weights": "slim", "head_epochs": 1, "epochs": 1}


@pytest.mark.parametrize("head", ["gap", "fc"])
def test_reset_weights_are_those_of_a_new_model(head):
    backbone = load_backbone("slim")
    build = {"image_size": (32, 32), "head": head, "weights": backbone}
    used, new = build_vgg16(3, seed=0, **build), build_vgg16(3, seed=7, **build)
    for layer in used.layers:
        layer.set_weights([w + 1 for w in layer.get_weights()])
    reset_weights(used, backbone, 7)
    for a, b in zip(used.get_weights(), new.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("options", [{"final_epochs": 1}, {"augmentation": "flip", "augmented_views": 0}])
def test_a_kept_network_trains_as_a_new_one_does(demo, tmp_path, options):
    """Whatever was trained before, at another depth and with another seed and loss, leaves no trace."""
    options = {**OPTIONS, **options}
    networks = {}

    def train(through, seed, loss, **where):
        config = TrainConfig(freeze_through=through, seed=seed, loss=loss, **options)
        return train_until(demo, config, **where)

    train(4, 0, "categorical_crossentropy", runs_dir=tmp_path / "kept", networks=networks)
    for run in ((1, 3, "focal"), (4, 1, "categorical_crossentropy")):
        kept = train(*run, runs_dir=tmp_path / "kept", networks=networks)
        assert len(networks) == 1
        new = train(*run, runs_dir=tmp_path / "new")
        p = [column for column in new.predictions if column.startswith("p(")]
        np.testing.assert_allclose(kept.predictions[p], new.predictions[p], atol=1e-6)
        columns = kept.history.columns.drop("seconds")
        assert kept.history[columns].round(6).equals(new.history[columns].round(6))


def test_what_a_trace_would_freeze_is_not_kept(demo, tmp_path):
    for options in ({"weights": "random"}, {"head": "blocks"}):
        networks = {}
        config = TrainConfig(freeze_through=5, **{**OPTIONS, **options})
        train_until(demo, config, runs_dir=tmp_path, networks=networks)
        assert not networks


def test_parts_are_cut_and_traced_once(demo):
    network = Network(build_vgg16(3, image_size=(32, 32), weights="slim"), "float32")
    part = network.part(3)
    assert network.part(3) is part
    assert network.part(3, cut=False) is not part
    config = TrainConfig()
    assert part.gradients(config) is part.gradients(dataclasses.replace(config, optimizer="sgd"))
    assert part.gradients(config) is not part.gradients(dataclasses.replace(config, loss="focal"))
