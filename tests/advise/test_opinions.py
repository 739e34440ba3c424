"""Second opinions and the tangent sketch, against direct evaluations."""

import keras
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from xaitune.advise.opinions import h_score, logme, transrate
from xaitune.advise.tangent import Sketch, tangent_scores
from xaitune.models.gradients import ActivationGradients
from xaitune.models.vgg import build_vgg16


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 30)
    return rng.normal(size=(90, 4)) + labels[:, None] * np.array([2.0, 0, 0, 0]), labels


def test_logme_is_the_highest_evidence(features):
    """The evidence of y ~ N(0, I / beta + x x^T / alpha), maximised by a general optimiser."""
    x, labels = features
    values = []
    for label in range(3):
        y = (labels == label).astype(float)

        def negative(logs, y=y):
            alpha, beta = np.exp(logs)
            return -multivariate_normal.logpdf(y, np.zeros(90), np.eye(90) / beta + x @ x.T / alpha)

        best = min((minimize(negative, start, method="Nelder-Mead") for start in ([0, 0], [3, 1])), key=lambda r: r.fun)
        values.append(-best.fun / 90)
    assert logme(x, labels) == pytest.approx(np.mean(values), abs=1e-4)


def test_logme_with_fewer_images_than_features():
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(10, 30)), np.repeat([0, 1], 5)
    assert np.isfinite(logme(x, labels))
    x[:, 0] += 4 * labels
    assert logme(x, labels) > logme(x[:, 1:], labels)


@pytest.mark.parametrize("opinion", [logme, h_score, transrate])
def test_opinions_prefer_features_that_separate_the_classes(features, opinion):
    x, labels = features
    shuffled = np.random.default_rng(0).permutation(labels)
    assert opinion(x, labels) > opinion(x, shuffled)
    assert opinion(x * 3 if opinion is not logme else x, labels) == pytest.approx(opinion(x, labels), rel=1e-6)


def test_h_score_of_separated_classes(features):
    """With many images nothing is shrunk: for one feature the H-score is the share of variance between the classes."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 20_000)
    x = labels[:, None] + rng.normal(size=(20_000, 1))
    assert h_score(x, labels) == pytest.approx(0.25 / 1.25, abs=0.01)


def test_sketches_are_the_gradient_of_an_inserted_convolution():
    """Against finite differences through a 1x1 convolution that is the identity."""
    rng = np.random.default_rng(0)
    image = keras.Input((4, 4, 3))
    first = keras.layers.Conv2D(2, 3, padding="same", activation="tanh", name="first")
    inserted = keras.layers.Conv2D(2, 1, use_bias=False, name="inserted")
    rest = keras.layers.Conv2D(3, 3, activation="tanh", name="rest")
    output = keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(rest(inserted(first(image)))))
    model = keras.Model(image, output)
    identity = np.eye(2, dtype=np.float32)[None, None]
    inserted.set_weights([identity])
    images = rng.normal(size=(3, 4, 4, 3)).astype(np.float32)
    gradients = ActivationGradients(model, ["inserted"], Sketch(size=0))
    (sketch, mean), *_ = gradients(images, np.zeros(3, np.int32))[0]
    for i in range(2):
        for j in range(2):
            step = np.zeros_like(identity)
            step[0, 0, i, j] = 1e-2
            inserted.set_weights([identity + step])
            up = model.predict_on_batch(images)
            inserted.set_weights([identity - step])
            down = model.predict_on_batch(images)
            np.testing.assert_allclose(sketch[:, 2 * i + j], (up - down)[:, 0] / 2e-2, rtol=1e-2, atol=1e-4)
    inserted.set_weights([identity])
    tap = keras.Model(image, inserted.output).predict_on_batch(images)
    np.testing.assert_allclose(mean, tap.mean(axis=(1, 2)), atol=1e-6)


def test_inner_products_of_sketches_estimate_those_of_the_gradients():
    rng = np.random.default_rng(0)
    a, g = rng.normal(size=(2, 4, 3, 3, 40)).astype(np.float32)
    whole = np.asarray(Sketch(size=0)(a, g)[0])
    kernels = [np.asarray(Sketch(size=32, seed=seed)(a, g)[0]) for seed in range(40)]
    estimate = np.mean([k @ k.T for k in kernels], axis=0)
    np.testing.assert_allclose(estimate, whole @ whole.T, atol=0.1 * np.abs(whole @ whole.T).max())


def test_noise_ranks_no_depth(demo):
    """With labels drawn at random no depth is better than chance, and none is far from the others."""
    import dataclasses

    labels = np.random.default_rng(3).integers(0, len(demo.class_names), len(demo))
    noise = dataclasses.replace(demo, labels=labels, groups=np.arange(len(demo)).astype(str))
    model = build_vgg16(len(demo.class_names), image_size=demo.image_size, weights="slim")
    scores = tangent_scores(model, noise, "accuracy")
    assert set(scores) == set(range(6))
    assert max(scores.values()) < 0.25
    assert np.ptp(list(scores.values())) < 0.12


def test_bfloat16_gives_nearly_the_same_scores(demo):
    model = build_vgg16(len(demo.class_names), image_size=demo.image_size, weights="slim")
    exact, rounded = (tangent_scores(model, demo, "accuracy", precision=p) for p in ("float32", "bfloat16"))
    assert max(abs(exact[depth] - rounded[depth]) for depth in exact) < 0.08
