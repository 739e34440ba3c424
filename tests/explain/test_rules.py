"""What every weighting rule must do, and equality with other packages."""

import functools

import numpy as np
import pytest
from scipy.stats import spearmanr

from xaitune.errors import ConfigError
from xaitune.explain import gradcam
from xaitune.explain.api import explain_images
from xaitune.explain.classifier import open_classifier
from xaitune.explain.gradcam import RULES, RulesMapper, gradcam_blocks, model_for_maps
from xaitune.models.backend import keras
from xaitune.models.blocks import freeze_blocks
from xaitune.models.gradients import ActivationGradients
from xaitune.models.stages import find_stages
from xaitune.models.vgg import build_vgg16

SIZE = (32, 48)
TOP = -1


def random_images(count):
    return np.random.default_rng(0).integers(0, 256, (count, *SIZE, 3)).astype(np.float32)


def slim(**options):
    return build_vgg16(3, image_size=SIZE, weights="slim", seed=1, **options)


def numpy_maps(a, g):
    """The rules as written in their papers, in float64."""
    a, g = a.astype(np.float64), g.astype(np.float64)
    total = a.sum(axis=(1, 2), keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        alpha = np.nan_to_num(g**2 / (2 * g**2 + total * g**3))
        share = np.nan_to_num((a * g).sum(axis=(1, 2)) / total[:, 0, 0])
    weights = {
        "gradcam": g.mean(axis=(1, 2)),
        "gradcam++": (alpha * np.maximum(g, 0)).sum(axis=(1, 2)),
        "xgradcam": share,
    }
    maps = {rule: np.einsum("nhwc,nc->nhw", a, w) for rule, w in weights.items()}
    return maps | {"hirescam": (a * g).sum(axis=-1), "layercam": (a * np.maximum(g, 0)).sum(axis=-1)}


def nested(activation=None):
    """A model with a backbone called as a layer."""
    inner = keras.applications.VGG16(weights=None, include_top=False, input_shape=(*SIZE, 3))
    ends = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, activation=activation)]
    return keras.Sequential([keras.Input((*SIZE, 3)), keras.layers.Rescaling(1 / 255), inner, *ends])


def application(name):
    return getattr(keras.applications, name)(
        weights=None, input_shape=(*SIZE, 3), classes=3, classifier_activation=None
    )


# situation -> (model, images)
SITUATIONS = {
    "grey as RGB": lambda: (slim(), np.repeat(random_images(2)[..., :1], 3, axis=-1)),
    "one image": lambda: (slim(), random_images(1)),
    "more than a batch": lambda: (slim(), random_images(5)),
    "frozen": lambda: (freeze_blocks(slim(), 5), random_images(2)),
    "fc head": lambda: (slim(head="fc"), random_images(2)),
    "VGG19": lambda: (application("VGG19"), random_images(2)),
    "ResNet50": lambda: (application("ResNet50"), random_images(2)),
    "nested": lambda: (nested(), random_images(2)),
    "softmax": lambda: (nested("softmax"), random_images(2)),
}


@functools.cache
def passes(situation):
    """Block -> (activations, gradients) without any rule, and rule -> block -> maps."""
    keras.utils.set_random_seed(0)
    original, images = SITUATIONS[situation]()
    model = open_classifier(original).model
    stages = find_stages(model)
    top = np.full(len(images), TOP, np.int32)
    pairs, _ = ActivationGradients(model, list(stages.values()))(images, top)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradcam, "images_at_once", lambda *size: 2)
        maps, logits = RulesMapper(model)(images, top)
    assert len(logits) == len(images)
    return dict(zip(stages, pairs, strict=True)), maps


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("rule", RULES)
def test_compiled_rules_equal_the_papers_formulas(rule, situation):
    pairs, maps = passes(situation)
    assert sorted(maps[rule]) == sorted(pairs) == [1, 2, 3, 4, 5]
    for block, (a, g) in pairs.items():
        expected = numpy_maps(a, g)[rule]
        assert expected.std() > 0
        result = maps[rule][block]
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected, atol=1e-4 * np.abs(expected).max())
        assert result.shape == a.shape[:3]
        assert a.shape[1] / a.shape[2] == pytest.approx(SIZE[0] / SIZE[1], abs=0.34)  # height and width are not swapped


@pytest.mark.parametrize("rule", RULES)
def test_one_rule_alone_gives_the_same_maps(rule):
    _, maps = passes("one image")
    result = gradcam_blocks(slim(), random_images(1), rule=rule, precision="float32")
    assert result.rule == rule
    for b in result.blocks:
        np.testing.assert_allclose(result.raw[b], maps[rule][b], atol=1e-5 * np.abs(maps[rule][b]).max())


# ---- precision


@pytest.mark.parametrize("rule", RULES)
def test_bfloat16_agrees_with_float32(run, demo, rule):
    """On a trained model; a processor without bfloat16 units is slower but gives the same."""
    images, name = demo.load(range(6)), run.class_names[3]
    expected = gradcam_blocks(run, images, rule=rule, class_name=name, precision="float32")
    half = gradcam_blocks(run, images, rule=rule, class_name=name, precision="bfloat16")
    assert (half.precision, expected.precision) == ("bfloat16", "float32")
    np.testing.assert_allclose(half.probabilities, expected.probabilities, atol=0.02)
    for b in expected.blocks:
        assert half.raw[b].dtype == np.float32
        correlations = [spearmanr(x.ravel(), y.ravel())[0] for x, y in zip(half.raw[b], expected.raw[b], strict=True)]
        assert np.mean(correlations) > 0.98, (b, correlations)


def test_auto_is_bfloat16_for_a_vgg_where_the_processor_has_units(monkeypatch):
    calls = []
    monkeypatch.setattr(gradcam, "resolve_precision", lambda p: calls.append(p) or ("bfloat16", "so"))
    model = slim()
    half, used = model_for_maps(model)
    assert used == "bfloat16"
    kinds = {layer.name: layer.dtype_policy.name for layer in half.layers}
    assert kinds["block1_conv2"] == kinds["block1_pool"] == kinds["gap"] == kinds["logits"] == "float32"
    assert kinds["block2_conv1"] == kinds["block5_conv3"] == kinds["block4_pool"] == "mixed_bfloat16"
    inputs = keras.Input((*SIZE, 3))
    x = keras.layers.Conv2D(2, 3, name="stage1_a")(inputs)
    other = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    assert model_for_maps(other) == (other, "float32")  # auto is bfloat16 only for models on which it was measured
    assert model_for_maps(other, "bfloat16")[1] == "bfloat16"
    assert calls == ["auto", "bfloat16"]


@pytest.mark.parametrize("method", ["gradcam", "cam", "lime"])
def test_an_unknown_precision_is_refused(method):
    with pytest.raises(
        ConfigError, match=r"precision must be one of auto, float32, bfloat16\. Received: precision='float16'"
    ):
        explain_images(slim(), random_images(1), method=method, precision="float16", num_samples=2)


# ---- equality with other packages


@pytest.fixture(scope="module")
def ours():
    model, images = slim(), random_images(3)
    maps, _ = RulesMapper(model)(images, np.full(3, 2, np.int32))
    return model, images, maps


def assert_close(theirs, raw):
    """The other package's maps are taken after the ReLU."""
    expected = np.maximum(raw, 0)
    np.testing.assert_allclose(theirs, expected, atol=1e-4 * expected.max())


@pytest.mark.parametrize("rule", ["gradcam", "layercam"])
def test_equal_to_tf_keras_vis(ours, rule):
    """Except Grad-CAM++: tf-keras-vis divides each channel's alphas by their sum, as in the authors' code but not the paper."""
    pytest.importorskip("tf_keras_vis")
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.layercam import Layercam
    from tf_keras_vis.utils.scores import CategoricalScore

    model, images, maps = ours
    explain = {"gradcam": Gradcam, "layercam": Layercam}[rule](model, clone=True)
    for block, name in find_stages(model).items():
        options = {"penultimate_layer": name, "expand_cam": False, "normalize_cam": False}
        assert_close(explain(CategoricalScore([2] * 3), images, **options), maps[rule][block])


@pytest.mark.parametrize("rule", RULES)
def test_equal_to_pytorch_grad_cam(rule):
    """Only its weighting, of the same activations and gradients: it cannot give raw maps otherwise."""
    theirs = pytest.importorskip("pytorch_grad_cam")
    names = dict(zip(RULES, ("GradCAM", "GradCAMPlusPlus", "HiResCAM", "XGradCAM", "LayerCAM"), strict=True))
    kind = getattr(theirs, names[rule])
    rng = np.random.default_rng(0)
    a, g = np.maximum(rng.normal(size=(2, 4, 6, 5)), 0), rng.normal(size=(2, 4, 6, 5))
    channels_first = (np.moveaxis(x, -1, 1) for x in (a, g))
    expected = kind.get_cam_image(kind.__new__(kind), None, None, None, *channels_first, False)
    np.testing.assert_allclose(RULES[rule](a, g), expected, atol=1e-4 * np.abs(expected).max())
