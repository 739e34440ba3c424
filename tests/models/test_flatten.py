"""flatten.py: stages by name, nested models, final softmaxes, and models that are left unchanged."""

import numpy as np
import pytest
from scipy.special import softmax

from xaitune.errors import ConfigError, ModelError
from xaitune.explain.cam import class_activation_map
from xaitune.explain.classifier import open_classifier
from xaitune.explain.gradcam import gradcam_blocks
from xaitune.models import blocks
from xaitune.models.backend import keras
from xaitune.models.flatten import as_classifier
from xaitune.models.stages import find_stages
from xaitune.models.vgg import build_vgg16

layers = keras.layers
SHAPE = (32, 48, 3)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, *SHAPE)).astype(np.float32)


def convolutions(prefix="", first=1, channels=4):
    """Two stages of one convolution and a pooling."""
    steps = []
    for stage in (first, first + 1):
        steps.append(layers.Conv2D(channels, 3, padding="same", activation="relu", name=f"{prefix}block{stage}_conv1"))
        steps.append(layers.MaxPooling2D(2, name=f"{prefix}block{stage}_pool"))
    return steps


def chain(tensor, steps):
    for step in steps:
        tensor = step(tensor)
    return tensor


def head(activation=None, classes=3):
    return [layers.GlobalAveragePooling2D(name="gap"), layers.Dense(classes, activation=activation, name="scores")]


def backbone(shape=SHAPE, **options):
    inputs = keras.Input(shape)
    return keras.Model(inputs, chain(inputs, convolutions(**options)), name="backbone")


def state(model):
    """Everything in a model that an explanation might change."""
    states = []
    for layer in model.layers:
        nodes = len(layer._inbound_nodes), len(layer._outbound_nodes)
        states.append((id(layer), id(layer.output), layer.trainable, nodes, [w.tobytes() for w in layer.get_weights()]))
        if isinstance(layer, keras.Model):
            states += state(layer)
    return states


# ---- stages


def test_stages_of_our_vgg16_are_its_blocks():
    model = build_vgg16(3, image_size=(32, 48), weights="slim")
    assert find_stages(model) == {block: names[-1] for block, names in blocks.convolutions().items()}


@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("VGG19", [f"block{b}_conv{2 if b < 3 else 4}" for b in range(1, 6)]),
        ("ResNet50", ["conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out"]),
        ("EfficientNetB0", [f"block{s}" for s in ("1a_project_bn", "2b_add", "3b_add", "4c_add", "5c_add", "6d_add")]),
    ],
)
def test_stages_of_keras_applications(name, taps):
    model = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(64, 64, 3))
    stages = find_stages(model)
    assert list(stages) == list(range(1, len(stages) + 1))
    for block, tap in enumerate(taps[:4], 1):
        assert stages[block] == tap


def test_stages_by_other_words():
    def stages(*names):
        inputs = keras.Input(SHAPE)
        x = chain(inputs, [layers.Conv2D(2, 1, name=name) for name in names])
        return find_stages(keras.Model(inputs, chain(x, head())))

    assert stages("layer1_0_a", "layer1_1_b", "layer2_0_a") == {1: "layer1_1_b", 2: "layer2_0_a"}
    assert stages("stage_0", "stage_2", "stage_10") == {1: "stage_0", 2: "stage_2", 3: "stage_10"}  # in numerical order
    assert stages("Block1", "stem", "block2_a", "conv1") == {1: "Block1", 2: "block2_a"}  # 2 numbers, conv has 1
    assert stages("stem", "conv2d_7") == {1: "conv2d_7"}  # no names: the last layer of each size


def test_block_numbers_are_limited_to_those_of_the_model(images):
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, chain(inputs, convolutions() + head()))
    assert gradcam_blocks(model, images).blocks == (1, 2)
    with pytest.raises(ConfigError, match=r"block must be 1\.\.2, .* \(the model has Block 1 to 2\)\. Received: 3"):
        gradcam_blocks(model, images, blocks=3)


# ---- nested models

preprocess = keras.applications.vgg16.preprocess_input


def nested_sequential():
    return keras.Sequential([keras.Input(SHAPE), layers.Rescaling(1 / 255), backbone(), *head()])


def sequential_of_sequentials():
    inner = keras.Sequential([keras.Sequential(convolutions(), name="low"), layers.ReLU(name="re")], name="base")
    return keras.Sequential([keras.Input(SHAPE), inner, *head("softmax")])


def called_backbone():
    """As in Keras's transfer learning guide: operations, augmentation, a frozen backbone in inference mode."""
    base = backbone()
    base.trainable = False
    inputs = keras.Input(SHAPE)
    x = layers.RandomFlip()(inputs)
    x = base(preprocess(x), training=False)
    model = keras.Model(inputs, chain(x, [head()[0], layers.Dropout(0.5), head()[1]]))
    model.compile("adam", loss=lambda true, given: keras.ops.mean(given))  # not a name that a copy could look up
    return model


def normalised():
    """Normalization computes with values that are not among its weights."""
    step = layers.Normalization()
    step.adapt(np.random.default_rng(1).uniform(0, 255, (4, *SHAPE)))
    return keras.Sequential([keras.Input(SHAPE), step, backbone(), layers.BatchNormalization(), *head()])


def two_levels():
    inner = keras.Sequential([keras.Input(SHAPE), backbone(), *convolutions("", 3)], name="two")
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, chain(inner(inputs), head()))


def one_by_one():
    """`add` rebuilds the Sequential each time, so that its layers have been called several times."""
    model = keras.Sequential([keras.Input(SHAPE)])
    for layer in convolutions() + head():
        model.add(layer)
    return model


def called_again():
    """Layers of another model that are called once more: their first output is not in this graph."""
    base = backbone()
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, chain(chain(inputs, base.layers[1:]), head()))


NESTED = (
    nested_sequential, sequential_of_sequentials, called_backbone, normalised, two_levels, one_by_one, called_again,
)  # fmt: skip


@pytest.mark.parametrize("build", NESTED, ids=lambda build: build.__name__)
def test_a_nested_model_is_unwrapped_in_a_copy(build, images):
    keras.utils.set_random_seed(1)
    model = build()
    before, expected = state(model), model.predict_on_batch(images)
    flat = as_classifier(model)
    assert flat is not model
    assert not any(isinstance(layer, keras.Model) for layer in flat.layers)
    assert all(len(layer._inbound_nodes) == 1 for layer in flat.layers)
    logits = flat.predict_on_batch(images)
    output = softmax(logits, axis=1) if build is sequential_of_sequentials else logits
    np.testing.assert_allclose(output, expected, atol=1e-5)
    maps = gradcam_blocks(model, images, precision="float32")
    assert maps.blocks == ((1, 2, 3, 4) if build is two_levels else (1, 2))
    np.testing.assert_allclose(maps.probabilities, softmax(logits, axis=1), atol=1e-5)
    assert all(np.isfinite(raw).all() and raw.std() > 0 for raw in maps.raw.values())
    assert state(model) == before


def test_maps_of_a_nested_model_are_those_of_the_flat_one(images):
    """At both blocks, and for CAM with a Dropout before the logits."""
    base, (pool, dense) = backbone(), head()
    flat = keras.Model(base.input, dense(pool(base.output)))
    inputs = keras.Input(SHAPE)
    nested = keras.Model(inputs, dense(layers.Dropout(0.3)(pool(base(inputs)))))
    copy = keras.models.clone_model(flat)  # its layers have been called once
    copy.set_weights(flat.get_weights())
    expected, maps = gradcam_blocks(copy, images), gradcam_blocks(nested, images)
    for b in (1, 2):
        np.testing.assert_allclose(maps.raw[b], expected.raw[b], atol=1e-6)
    cam = class_activation_map(nested, images)
    assert cam.blocks == (2,)
    np.testing.assert_allclose(cam.raw[2], class_activation_map(copy, images).raw[2], atol=1e-6)


class Hidden(keras.Model):
    def __init__(self):
        super().__init__()
        self.convolution = layers.Conv2D(4, 3)

    def call(self, x):
        return self.convolution(x)


class Forgetful(layers.Layer):
    """Computes with a number that is not a weight."""

    factor = 1.0

    def call(self, x):
        return self.factor * x


def test_a_subclassed_model_inside_another_is_unwrapped(images):
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, chain(Hidden()(inputs), head()))
    flat = as_classifier(model)
    assert not any(isinstance(layer, keras.Model) for layer in flat.layers)
    np.testing.assert_allclose(flat.predict_on_batch(images), model.predict_on_batch(images), rtol=1e-5)


def test_models_that_cannot_be_unwrapped_are_refused(images):
    inputs = keras.Input(SHAPE)

    def refused(x):
        with pytest.raises(ModelError) as excinfo:
            open_classifier(keras.Model(inputs, chain(x, head()), name="mine"))
        return str(excinfo.value)

    twice = backbone(shape=(None, None, 3))(layers.Conv2D(3, 1, name="block1_conv1")(inputs))
    message = refused(twice)
    assert message.startswith('mine: Its nested models cannot be unwrapped (The name "block1_conv1" is used 2 times')
    assert message.endswith(
        "Build it as one flat graph of Keras's own layers, from backbone.output instead of backbone(inputs)."
    )
    assert "cannot be unwrapped" in refused(backbone()(layers.Lambda(lambda x: x / 255)(inputs)))
    step = Forgetful()
    step.factor = 3.0
    assert "gives other outputs: a layer keeps state outside its weights" in refused(step(backbone()(inputs)))
    with pytest.raises(ModelError, match=r"Build a subclassed model as keras\.Model\(inputs, outputs\)"):
        open_classifier(Hidden())
    with pytest.raises(ModelError, match=r"begin a Sequential with keras\.Input"):
        open_classifier(keras.Sequential(head()))


# ---- a final softmax


def softmax_endings():
    logits = head()
    yield "Dense(softmax)", head("softmax")
    yield "Softmax layer", [*logits, layers.Softmax()]
    yield "Activation layer", [*logits, layers.Activation("softmax", dtype="float32")]
    yield "operation", [*logits, keras.ops.softmax]
    yield "log_softmax", head("log_softmax")
    yield "1x1 convolution", [
        layers.Conv2D(3, 1, name="scores"), layers.GlobalAveragePooling2D(), layers.Softmax()
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "ending"), list(softmax_endings()), ids=lambda v: v if isinstance(v, str) else "")
def test_a_final_softmax_is_removed(name, ending, images):
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, chain(inputs, [layers.Rescaling(9.0), *convolutions(), *ending]))
    scores = model.get_layer("scores")
    scores.set_weights([20 * w for w in scores.get_weights()])  # saturates the softmax
    before, expected = state(model), model.predict_on_batch(images)
    logits = as_classifier(model).predict_on_batch(images)
    np.testing.assert_allclose(softmax(logits, axis=1), np.exp(expected) if "log" in name else expected, atol=1e-5)
    assert np.abs(logits).max() > 10
    maps = gradcam_blocks(model, images, class_name="class 1")
    assert not np.allclose(maps.raw[2], 0)
    assert state(model) == before


def test_the_maps_are_those_of_the_logits(images):
    """A model with a final softmax has the same maps as the model without it."""
    inputs = keras.Input(SHAPE)
    x = chain(inputs, convolutions() + head())
    plain = keras.Model(inputs, x)
    expected = gradcam_blocks(plain, images, class_name="class 2").raw
    maps = gradcam_blocks(keras.Model(inputs, layers.Softmax()(x)), images, class_name="class 2").raw
    for b in expected:
        np.testing.assert_array_equal(maps[b], expected[b])


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_other_endings_are_refused(activation):
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, chain(inputs, convolutions() + head(activation)), name="mine")
    with pytest.raises(
        ModelError,
        match=rf"^mine: It ends in 'scores' with {activation}, .* activation=None \(logits\), softmax or sigmoid",
    ):
        open_classifier(model)
    with pytest.raises(ModelError, match=f"with {activation}"):
        open_classifier(keras.Model(inputs, chain(inputs, [*convolutions(), *head(), getattr(keras.ops, activation)])))


def test_a_softmax_over_a_lambda_is_refused():
    inputs = keras.Input(SHAPE)
    x = layers.Lambda(lambda t: t / 255)(inputs)
    with pytest.raises(
        ModelError, match=r"with softmax and cannot be copied without it \(.*activation=None \(logits\)"
    ):
        open_classifier(keras.Model(inputs, chain(x, convolutions() + head("softmax"))))
    without_softmax = keras.Model(inputs, chain(x, convolutions() + head()))
    assert gradcam_blocks(without_softmax, np.zeros((1, *SHAPE))).blocks == (1, 2)
