"""linear.py and the head 'blocks': the closed form against scikit-learn, its cross-validation, and what a run of it holds."""

import dataclasses

import keras
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from xaitune.config.settings import TrainConfig
from xaitune.errors import ConfigError
from xaitune.models.model_files import load_model
from xaitune.training.linear import PENALTIES, fit_linear_head
from xaitune.training.train import train_model

LINEAR = TrainConfig(weights="slim", head="blocks", freeze_through=5, precision="float32")


def examples(images, features, classes=3, seed=0):
    """(features, labels, groups): each class has a mean of its own; two images a group."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(images // 2) % classes, 2)
    means = rng.normal(0, 1, (classes, features))
    return rng.normal(0, 3, (images, features)) + means[labels] + 5, labels, np.repeat(np.arange(images // 2), 2)


@pytest.mark.parametrize("size", [(60, 200), (200, 20)])  # more features than images, and fewer
@pytest.mark.parametrize("weighted", [False, True])
def test_the_closed_form_is_ridge_regression(size, weighted):
    features, labels, groups = examples(*size)
    weights = np.where(labels == 0, 3.0, 1.0) if weighted else np.ones(len(labels))
    head = fit_linear_head(features, labels, groups, 3, sample_weight=weights)
    standard = (features - features.mean(0)) / features.std(0)
    ridge = Ridge(alpha=head.penalty * len(labels)).fit(
        standard, np.eye(3)[labels], sample_weight=weights / weights.mean()
    )
    ours = (features - head.mean) / np.sqrt(head.variance) @ head.kernel + head.bias
    theirs = ridge.predict(standard)
    factor = float((ours * theirs).sum() / (theirs**2).sum())
    assert factor > 0
    np.testing.assert_allclose(ours, factor * theirs, atol=1e-3 * factor)


def test_cross_validation_chooses_a_penalty_by_the_groups():
    """Of pure noise nothing can be learned: with the groups kept together no score beats chance by much."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 5)
    labels = rng.integers(0, 2, 40)[groups]
    features = rng.normal(0, 1, (40, 60))[groups] + rng.normal(0, 0.01, (200, 60))  # five photographs of each thing
    together = fit_linear_head(features, labels, groups, 2, metric="accuracy")
    apart = fit_linear_head(features, labels, np.arange(200), 2, metric="accuracy")
    assert apart.score > 0.95  # a leak: every thing is in training too
    assert together.score < 0.75
    clear = fit_linear_head(*examples(200, 20), 3)
    assert clear.penalty in PENALTIES
    assert clear.score > 0.65


def test_logits_are_probabilities_of_held_out_images():
    """The factor makes the log loss of new images about as small as any other factor would."""
    features, labels, groups = examples(400, 50)
    head = fit_linear_head(features[:200], labels[:200], groups[:200], 3)
    logits = (features[200:] - head.mean) / np.sqrt(head.variance) @ head.kernel + head.bias

    def loss(scale):
        shifted = scale * logits - (scale * logits).max(axis=1, keepdims=True)
        chosen = shifted[np.arange(200), labels[200:]] - np.log(np.exp(shifted).sum(axis=1))
        return -chosen.mean()

    assert loss(1.0) < min(loss(0.3), loss(3.0))


def test_one_group_in_a_class_and_a_silent_channel():
    features, labels, groups = examples(12, 5)
    features[:, 2] = 7.0
    head = fit_linear_head(features, labels, np.where(labels == 0, 99, groups), 3)
    assert np.isnan(head.score)
    assert head.penalty == 1
    assert head.variance[2] == 1
    assert np.isfinite(head.kernel).all()


@pytest.fixture(scope="module")
def linear(demo, tmp_path_factory):
    return train_model(demo, LINEAR, runs_dir=tmp_path_factory.mktemp("linear"))


def test_a_linear_head_on_frozen_features(linear, demo):
    assert linear.name == "frozen-all-blocks"
    assert linear.metadata["linear_head"]["blocks"] == [1, 2, 3, 4, 5]
    assert list(linear.history["stage"]) == ["head"]
    assert linear.score("validation") == pytest.approx(linear.history["val_f1_macro"].iloc[-1])
    logits = linear.model.predict(demo.load().astype(np.float32), verbose=0)
    assert (linear.predictions["predicted"] == np.array(demo.class_names)[logits.argmax(axis=1)]).mean() > 0.99
    assert not any(layer.trainable for layer in linear.model.layers if layer.name.startswith("block1_conv"))


def test_the_model_loads_without_xaitune(linear, demo):
    model = keras.saving.load_model(linear.path / "model.keras", compile=False, safe_mode=True)
    assert {type(layer).__module__.partition(".")[0] for layer in model.layers} == {"keras"}
    images = demo.load()[:2].astype(np.float32)
    np.testing.assert_array_equal(model(images), linear.model(images))


def test_the_best_block_alone_ends_the_network(demo, linear, tmp_path):
    run = train_model(demo, LINEAR, head_blocks="best", runs_dir=tmp_path, cache_dir=linear.path.parent / "cache")
    (block,) = run.metadata["linear_head"]["blocks"]
    names = [layer.name for layer in load_model(run.path).layers]
    assert f"block{block}_mean" in names
    assert f"block{block + 1}_conv1" not in names
    assert run.name == "frozen-best-block"
    logits = run.model.predict(demo.load().astype(np.float32), verbose=0)
    assert (run.predictions["predicted"] == np.array(demo.class_names)[logits.argmax(axis=1)]).mean() > 0.99
    with pytest.raises(ConfigError, match="head_blocks must be all unless head is blocks and freeze_through is 5"):
        dataclasses.replace(LINEAR, head_blocks="best", freeze_through=3)


@pytest.mark.parametrize("through", [0, 3])
def test_fine_tuning_begins_at_the_fitted_head(through, demo, linear, tmp_path):
    config = dataclasses.replace(LINEAR, freeze_through=through, epochs=1)
    run = train_model(demo, config, runs_dir=tmp_path, cache_dir=linear.path.parent / "cache")
    assert run.history["val_f1_macro"].iloc[0] == pytest.approx(linear.score("validation"))
    assert run.score("validation") >= linear.score("validation") - 1e-9
    assert list(run.history["stage"]) == ["head", "fine-tune"]
    mean = run.model.get_layer("standardise").get_weights()[0]
    np.testing.assert_allclose(mean, linear.model.get_layer("standardise").get_weights()[0])
