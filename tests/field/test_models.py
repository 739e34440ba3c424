"""Models as users bring them: preprocessing outside, one unit, labels, .h5, unnamed and custom layers, odd inputs.

Every docstring says a situation -> what xaitune does. Right values are worked out with Keras alone.
"""

import json
import warnings

import numpy as np
import pytest
import tensorflow as tf
from driving import xaitune
from PIL import Image
from scipy.special import expit, softmax

from xaitune.errors import ConfigError, ImageError, ModelError, XaituneWarning
from xaitune.explain.cam import class_activation_map
from xaitune.explain.classifier import open_classifier
from xaitune.explain.gradcam import gradcam_blocks
from xaitune.explain.lime.explain import lime_superpixels
from xaitune.explain.probabilities import Probabilities
from xaitune.explain.rows import predicted_rows
from xaitune.explain.scaling import scaling_evidence
from xaitune.models.backend import keras
from xaitune.models.model_files import load_model

layers = keras.layers
SHAPE = (32, 48, 3)
PREPROCESS = {
    "rescale": lambda x: x / 255,
    "symmetric": lambda x: x / 127.5 - 1,
    "imagenet": lambda x: keras.applications.vgg16.preprocess_input(x.copy()),
    "torch": lambda x: (x / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225]),
}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, *SHAPE)).astype(np.uint8)


@pytest.fixture
def files(images, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


def network(units=3, activation=None, channels=3, scaled=False, names=True, seed=0):
    """A small classifier whose answers depend on the images."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((*SHAPE[:2], channels))
    x = layers.Rescaling(1 / 255)(inputs) if scaled else inputs
    for block in (1, 2):
        name = f"block{block}_conv1" if names else None
        x = layers.Conv2D(6, 3, padding="same", activation="relu", name=name)(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(units, activation=activation)(x), name="mine")


def gradcam_by_tape(model, layer, images, index):
    """Grad-CAM of the model's own output before its last activation, by a GradientTape: (n, h, w)."""
    last = model.layers[-1]
    taps = keras.Model(model.inputs[0], [model.get_layer(layer).output, last.input])
    with tf.GradientTape() as tape:
        a, features = taps(images)
        tape.watch(a)
        score = (features @ last.kernel + last.bias)[:, index]
        # The path from `a` to the score, followed again, since `a` is watched only now.
        x, passed = a, False
        for step in model.layers:
            if passed:
                x = step(x) if step is not last else x @ last.kernel + last.bias
            passed = passed or step.name == layer
        score = x[:, index]
    g = tape.gradient(score, a).numpy()
    return np.einsum("nhwc,nc->nhw", a.numpy(), g.mean(axis=(1, 2)))


# ---- preprocessing outside the model


@pytest.mark.parametrize("name", PREPROCESS)
def test_preprocessing_outside_the_model(name, images):
    """Preprocessing kept outside the model -> `preprocess` puts it in front: the owner's predictions and maps."""
    model = network(activation="softmax")
    own = PREPROCESS[name](images.astype(np.float32)).astype(np.float32)
    classifier = open_classifier(model, preprocess=name, class_names=["a", "b", "c"])
    maps = gradcam_blocks(classifier, images, class_name="b", precision="float32")
    np.testing.assert_allclose(maps.probabilities, model.predict_on_batch(own), atol=1e-5)
    expected = gradcam_by_tape(model, "block2_conv1", own, 1)
    np.testing.assert_allclose(maps.raw[2], expected, atol=1e-4 * np.abs(expected).max())


def test_nothing_scales_the_images(images):
    """A model without a scaling layer, and none named -> a warning with what to do; none where it has one, or 'none' is said."""
    with pytest.warns(XaituneWarning, match=r"mine does not scale its images, .* preprocess='rescale'"):
        assert not open_classifier(network()).scaled
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_classifier(network(scaled=True)).scaled
        open_classifier(network(), preprocess="none")
        nested = keras.Sequential([keras.Input(SHAPE), layers.Rescaling(1 / 255), network()])
        assert open_classifier(nested).scaled
    with pytest.raises(ConfigError, match="Did you mean 'rescale'"):
        open_classifier(network(), preprocess="rescal")


def test_the_evidence_tells_the_scaling():
    """Which scaling it was -> how sure and how varied the answers are under each; the right one varies, raw values do not."""
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (12, *SHAPE)).astype(np.float32)
    images[::2] *= 0.3  # dark and bright ones
    labels = np.arange(12) % 2
    model = network(2, "softmax", seed=1)
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    model.fit(images / 255, labels, epochs=60, verbose=0)
    with pytest.warns(XaituneWarning):
        evidence = scaling_evidence(open_classifier(model), images)
    assert evidence.loc["rescale", "classes"] == 2
    assert evidence.loc["none", "classes"] == 1
    assert evidence.loc["none", "top_probability"] > 0.99


def test_fractions_in_place_of_raw_values(images):
    """Arrays in 0..1 -> refused with 'pass images * 255'; uint8 that dark is taken."""
    with pytest.raises(ImageError, match=r"fractions up to 1, but raw values 0\.\.255 are needed: pass images \* 255"):
        gradcam_blocks(open_classifier(network(), preprocess="none"), images / images.max())
    dark = open_classifier(network(), preprocess="none").read(np.ones((1, *SHAPE), np.uint8))[0]
    assert dark.max() == 1


# ---- one unit, labels


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_one_unit(activation, images):
    """One unit, with or without a sigmoid -> two classes with logits (0, z); either is explained, their maps opposite."""
    model = network(1, activation, scaled=True)
    z = model.predict_on_batch(images.astype(np.float32))[:, 0]
    p = z if activation else expit(z)
    maps = gradcam_blocks(model, images, class_name="class 1", precision="float32")
    np.testing.assert_allclose(maps.probabilities, np.stack([1 - p, p], axis=1), atol=1e-5)
    expected = gradcam_by_tape(model, "block2_conv1", images.astype(np.float32), 0)
    np.testing.assert_allclose(maps.raw[2], expected, atol=1e-5)
    zero = gradcam_blocks(model, images, class_name="class 0", precision="float32")
    np.testing.assert_allclose(zero.raw[2], 0, atol=1e-6)  # the logit 0 depends on nothing
    cam = class_activation_map(model, images, class_name="class 1")
    assert np.abs(cam.raw[2]).max() > 0
    lime = lime_superpixels(model, images[:1], class_name="class 1", num_samples=64)
    assert np.abs(lime.weights[0]).max() > 0


def test_one_unit_after_a_convolution(images):
    """One unit that is no Dense layer (a 1x1 convolution and pooling) -> two classes all the same."""
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, activation="relu", name="block1_conv1")(layers.Rescaling(1 / 255)(inputs))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(1, 1, name="block2_conv1")(x))
    model = keras.Model(inputs, layers.Activation("sigmoid")(x))
    p = model.predict_on_batch(images.astype(np.float32))[:, 0]
    maps = gradcam_blocks(model, images, precision="float32")
    np.testing.assert_allclose(maps.probabilities[:, 1], p, atol=1e-5)


def test_labels_that_do_not_compete(images):
    """Sigmoids of several labels -> each has its own probability, and LIME's weights are those of that label alone."""
    model = network(3, "sigmoid", scaled=True)
    expected = model.predict_on_batch(images.astype(np.float32))
    maps = gradcam_blocks(model, images, class_name="class 2", precision="float32")
    np.testing.assert_allclose(maps.probabilities, expected, atol=1e-5)
    assert open_classifier(model).labels
    np.testing.assert_allclose(
        maps.raw[2], gradcam_by_tape(model, "block2_conv1", images.astype(np.float32), 2), atol=1e-5
    )
    one = network(1, "sigmoid", scaled=True)  # label 2 alone, as one unit
    one.set_weights([*model.get_weights()[:-2], *(w[..., 2:] for w in model.get_weights()[-2:])])
    lime = lime_superpixels(model, images[:1], class_name="class 2", num_samples=200, precision="float32")
    alone = lime_superpixels(one, images[:1], class_name="class 1", num_samples=200, precision="float32")
    np.testing.assert_allclose(lime.weights[0], alone.weights[0], atol=0.1 * np.abs(alone.weights[0]).max())


# ---- files


def test_whole_models_and_weights_in_h5(images, tmp_path):
    """.h5 -> a whole model is explained; weights alone and a base without its head are told apart, each with what to do."""
    model = network(activation="softmax", scaled=True)
    model.save(tmp_path / "whole.h5")
    maps = gradcam_blocks(tmp_path / "whole.h5", images)
    np.testing.assert_allclose(maps.probabilities, model.predict_on_batch(images.astype(np.float32)), atol=1e-5)
    model.save_weights(tmp_path / "mine.weights.h5")
    with pytest.raises(ModelError, match=r"holds the weights of a model alone, .* model\.save\('model\.keras'\)"):
        load_model(tmp_path / "mine.weights.h5")
    import h5py

    with h5py.File(tmp_path / "notop.h5", "w") as file:
        file.attrs["layer_names"] = ["block1_conv1", "block1_conv2"]
        file.create_group("block1_conv1")
    with pytest.raises(ModelError, match=r"a VGG without its head, .* xaitune train DATA --weights .*notop\.h5"):
        load_model(tmp_path / "notop.h5")
    (tmp_path / "odd.h5").write_bytes(b"not HDF5")
    with pytest.raises(ModelError, match=r"is not a model file: neither \.keras .* nor \.h5"):
        load_model(tmp_path / "odd.h5")


def test_a_file_of_keras_2(tmp_path):
    """An .h5 of Keras 2 that Keras 3 cannot read -> Keras's reason, which version wrote it, and what to do."""
    import h5py

    config = {"class_name": "Functional", "config": {"layers": [{"class_name": "NoSuchLayer", "config": {}}]}}
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["model_config"], file.attrs["keras_version"] = json.dumps(config), "2.4.0"
    with pytest.raises(ModelError, match=r"cannot be loaded as a Keras model: .*saved by Keras 2\.4\.0, .* tf_keras"):
        load_model(tmp_path / "old.h5")


def test_a_saved_model_folder(tmp_path):
    """A TensorFlow SavedModel -> 'save the model as .keras where it was built'."""
    (tmp_path / "saved_model.pb").write_bytes(b"")
    for opened in (load_model, open_classifier):
        with pytest.raises(ModelError, match=r"is a TensorFlow SavedModel, .* model\.save\('model\.keras'\)"):
            opened(tmp_path)


class Unknown(layers.Layer):
    """A layer that the program which loads the model does not know."""

    def call(self, x):
        return x / 255


@pytest.mark.parametrize("kind", ["custom", "lambda"])
def test_code_of_ones_own_in_a_file(kind, images, tmp_path):
    """A custom layer or a Lambda in a file -> Keras's reason, and how to give the model in Python, which then works."""
    inputs = keras.Input(SHAPE)
    step = Unknown() if kind == "custom" else layers.Lambda(lambda x: x / 255)
    x = layers.Conv2D(4, 3, activation="relu", name="block1_conv1")(step(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    model.save(tmp_path / "own.keras")
    with pytest.raises(ModelError, match=r"cannot be loaded as a Keras model: .*xaitune\.open_classifier"):
        load_model(tmp_path / "own.keras")
    loaded = keras.models.load_model(tmp_path / "own.keras", custom_objects={"Unknown": Unknown}, safe_mode=False)
    maps = gradcam_blocks(open_classifier(loaded, preprocess="none"), images, precision="float32")
    expected = softmax(model.predict_on_batch(images.astype(np.float32)), axis=1)
    np.testing.assert_allclose(maps.probabilities, expected, atol=1e-5)


# ---- layers


def test_networks_not_named_in_stages(images):
    """Default names (conv2d_3) -> a block ends where the maps become half as high; the same maps as with names."""
    named, unnamed = network(scaled=True), network(scaled=True, names=False)
    unnamed.set_weights(named.get_weights())
    expected, maps = gradcam_blocks(named, images), gradcam_blocks(unnamed, images)
    assert maps.blocks == (1, 2)
    for block in (1, 2):
        np.testing.assert_allclose(maps.raw[block], expected.raw[block], atol=1e-6)
    np.testing.assert_allclose(class_activation_map(unnamed, images).raw[2], class_activation_map(named, images).raw[2])


@pytest.mark.parametrize(
    ("name", "side", "ends"), [("InceptionV3", 96, "mixed10"), ("MobileNet", 64, "conv_pw_13_relu")]
)
def test_known_networks_without_stage_names(name, side, ends):
    """InceptionV3, MobileNet -> five blocks by size, the last of which ends in the maps that the head sees."""
    from xaitune.models.stages import find_stages

    model = getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3), classes=4)
    stages = find_stages(model)
    assert len(stages) == 5
    assert stages[5] == ends


def test_layers_by_name(images):
    """--layer NAME -> those layers, in that order, with their names in titles and tables; another name lists them all."""
    model = network(scaled=True)
    maps = gradcam_blocks(model, images, layers=["block2_conv1", "block1_conv1"])
    plain = gradcam_blocks(model, images)
    np.testing.assert_array_equal(maps.raw[1], plain.raw[2])
    assert [title for title, _ in maps.panels()][1:] == ["block2_conv1", "block1_conv1"]
    assert set(maps.to_dataframe()["layer"]) == {"block2_conv1", "block1_conv1"}
    with pytest.raises(ModelError, match=r"Did you mean 'block1_conv1'.* block1_conv1 32x48x6, .*block2_conv1 16x24x6"):
        gradcam_blocks(model, images, layers="block1_cov1")


@keras.saving.register_keras_serializable("field")
class Scale(layers.Layer):
    """A custom layer with weights, without get_config: its copies have other names."""

    def __init__(self, start):
        super().__init__()
        self.start = start

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer=self.start, name="factor")

    def call(self, x):
        return x * self.factor


def test_custom_layers_without_a_configuration(images):
    """Custom layers whose copies get new names, behind a saturated softmax -> their weights are found by class and place."""
    inputs = keras.Input(SHAPE)
    inner = keras.Sequential(
        [keras.Input(SHAPE), layers.Conv2D(4, 3, activation="relu", name="block1_conv1"), Scale("ones")]
    )
    x = Scale("ones")(inner(layers.Rescaling(1 / 255)(inputs)))
    x = layers.Conv2D(4, 3, name="block2_conv1")(x)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x)))
    rng = np.random.default_rng(3)
    model.set_weights([rng.normal(0, 1, w.shape) for w in model.get_weights()])
    model.layers[-1].set_weights([100 * w for w in model.layers[-1].get_weights()])
    maps = gradcam_blocks(model, images, precision="float32")
    np.testing.assert_allclose(maps.probabilities, model.predict_on_batch(images.astype(np.float32)), atol=1e-5)


class Remembers(layers.Layer):
    """Computes with a number that no copy knows."""

    factor = 1.0

    def call(self, x):
        return x * self.factor


def test_a_copy_that_differs_is_refused_also_behind_a_softmax(images):
    """A layer that keeps state outside its weights, behind a saturated softmax -> refused, never explained wrongly."""
    step = Remembers()
    step.factor = 1.5
    inputs = keras.Input(SHAPE)
    base = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(4, 3, activation="relu", name="block1_conv1")])
    x = layers.GlobalAveragePooling2D()(step(base(inputs)))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    model.layers[-1].set_weights([1000 * w for w in model.layers[-1].get_weights()])
    with pytest.raises(ModelError, match="gives other outputs: a layer keeps state outside its weights"):
        open_classifier(model, preprocess="none")


# ---- inputs and outputs


def test_grey_input(images):
    """One channel -> the images' luminance, as Pillow has it, without being asked."""
    model = network(channels=1, scaled=True)
    assert open_classifier(model).scaled
    grey = np.stack([np.asarray(Image.fromarray(i).convert("L"), np.float32)[..., None] for i in images])
    maps = gradcam_blocks(model, images, precision="float32")
    expected = softmax(model.predict_on_batch(grey), axis=1)
    np.testing.assert_allclose(maps.probabilities, expected, atol=2e-3)  # Pillow rounds its grey values


def test_images_of_any_size():
    """Input of any size -> the line that gives it one."""
    base = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()])
    with pytest.raises(ModelError, match=r"keras\.Sequential\(\[keras\.Input\(\(224, 224, 3\)\), model\]\)"):
        open_classifier(base)


@pytest.mark.parametrize("as_dict", [False, True])
def test_several_outputs(as_dict, images):
    """Several outputs, in a list or a dict -> refused with their names; `output` chooses one."""
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, activation="relu", name="block1_conv1")(layers.Rescaling(1 / 255)(inputs))
    x = layers.GlobalAveragePooling2D()(x)
    kinds, sizes = layers.Dense(3, name="kind")(x), layers.Dense(2, name="size")(x)
    model = keras.Model(inputs, {"kind": kinds, "size": sizes} if as_dict else [kinds, sizes])
    with pytest.raises(ModelError, match=r"several outputs\. Name one of kind, size"):
        open_classifier(model)
    with pytest.raises(ModelError, match="Did you mean 'size'"):
        open_classifier(model, output="sizes")
    with pytest.raises(ModelError, match=r"has one output\. Name one of"):
        open_classifier(keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(2)]), output="zz")
    classifier = open_classifier(model, output="size")
    expected = keras.Model(inputs, sizes).predict_on_batch(images.astype(np.float32))
    maps = gradcam_blocks(classifier, images, precision="float32")
    np.testing.assert_allclose(maps.probabilities, softmax(expected, axis=1), atol=1e-5)


def test_paths_that_come_one_by_one(files):
    """A generator of paths, as Path.glob gives it -> read like a list of them."""
    model = network(scaled=True)
    assert len(gradcam_blocks(model, (path for path in sorted(files.glob("*.png"))))) == 3


def test_names_of_the_classes():
    """Classes of a foreign model -> named by `class_names`, as many as there are."""
    assert open_classifier(network(scaled=True), class_names=["a", "b", "c"]).class_names == ("a", "b", "c")
    with pytest.raises(ModelError, match="has 3 classes, but 2 names are given"):
        open_classifier(network(scaled=True), class_names=["a", "b"])


@pytest.mark.parametrize("kind", ["list", "pil", "tensor", "dataset", "batches", "mixed sizes", "grey"])
def test_images_in_memory(kind, images):
    """Lists, PIL images, tensors, tf.data, images of different sizes -> the same as the array of them."""
    model = network(scaled=True)
    given = {
        "list": list(images),
        "pil": [Image.fromarray(i) for i in images],
        "tensor": tf.constant(images),
        "dataset": tf.data.Dataset.from_tensor_slices(images),
        "batches": tf.data.Dataset.from_tensor_slices((images, [0, 1, 2])).batch(2),
        "mixed sizes": [images[0], np.kron(images[1], np.ones((2, 2, 1), np.uint8)), images[2]],
        "grey": [images[0, ..., 0], images[1], images[2]],
    }[kind]
    maps = gradcam_blocks(model, given)
    expected = gradcam_blocks(model, images)
    assert len(maps) == 3
    same = slice(2, 3) if kind in ("mixed sizes", "grey") else slice(None)
    np.testing.assert_allclose(maps.raw[2][same], expected.raw[2][same], atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "Images must be paths, arrays, tensors or PIL images. Received: int"),
        ([1, 2], "A list of images must hold arrays, tensors, PIL images or paths. Received: int"),
        (np.zeros((1, 3, 32, 48)), r"Its channels come first: pass images\.transpose\(0, 2, 3, 1\)"),
        (np.array([["a"]]), "values of type <U1"),
        (np.full((1, *SHAPE), -3.0), r"raw values 0\.\.255, not preprocessed ones"),
        ([], "No images were given"),
    ],
)
def test_what_is_no_image_is_an_image_error(given, message):
    """Anything else -> ImageError, which says what was received and what to pass."""
    with pytest.raises(ImageError, match=message):
        gradcam_blocks(network(scaled=True), given)


# ---- end to end


def test_the_transfer_learning_guides_model(images, files, tmp_path):
    """Keras's own guide (augmentation, rescaling, nested MobileNet, GAP, dropout, one sigmoid unit) -> explained end to end."""
    base = keras.applications.MobileNet(weights=None, include_top=False, input_shape=(64, 64, 3))
    inputs = keras.Input((64, 64, 3))
    x = layers.RandomFlip("horizontal")(inputs)
    x = layers.Rescaling(1 / 127.5, offset=-1)(x)
    x = layers.GlobalAveragePooling2D()(base(x, training=False))
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(layers.Dropout(0.2)(x)))
    saved = [tmp_path / "guide.keras", tmp_path / "guide.h5"]
    for path in saved:
        model.save(path)
    options = ["--model", saved[0], "--class-names", "cat,dog", "--out", tmp_path / "out", "--json"]
    answer = xaitune(tmp_path, "explain", files, *options)
    assert answer.status == 0, answer.err
    about = json.loads((tmp_path / "out/explain.json").read_text(encoding="utf-8"))
    assert about["class_names"] == ["cat", "dog"]
    assert {row["block"] for row in about["maps"]} == {1, 2, 3, 4, 5}
    assert "does not scale" not in answer.err
    resized = np.stack([np.asarray(Image.fromarray(i).resize((64, 64), Image.Resampling.BOX)) for i in images])
    expected = model.predict_on_batch(resized.astype(np.float32))[:, 0]
    for path in saved:
        classifier = open_classifier(path, class_names=["cat", "dog"])
        table = predicted_rows(classifier, Probabilities(classifier, "float32"), sorted(files.glob("*.png")))
        np.testing.assert_allclose(table["p(dog)"], expected, atol=0.02)  # another resampling
    layer = xaitune(tmp_path, "explain", files, *options, "--layer", "conv_pw_11_relu")
    assert layer.status == 0, layer.err
    listed = xaitune(tmp_path, "explain", files, *options, "--layer", "list")
    assert listed.json["layers"]["conv_pw_13_relu"] == [2, 2, 1024]


def test_the_command_shows_the_evidence(files, tmp_path):
    """`explain` with a model that scales nothing -> the answers under each scaling, and a warning; --preprocess ends it."""
    network(activation="softmax").save(tmp_path / "mine.keras")
    answer = xaitune(tmp_path, "explain", files, "--model", "mine.keras", "--out", "out")
    assert answer.status == 0, answer.err
    assert "under each preprocessing" in answer.out
    assert "mine.keras does not scale its images" in answer.err
    named = xaitune(tmp_path, "explain", files, "--model", "mine.keras", "--out", "out", "--preprocess", "rescale")
    assert "does not scale" not in named.err
    assert json.loads((tmp_path / "out/explain.json").read_text(encoding="utf-8"))["preprocess"] == "rescale"


@pytest.mark.parametrize("method", ["gradcam", "lime"])
def test_ctrl_c_in_explain(method, images, tmp_path, monkeypatch):
    """Ctrl-C in `explain` -> the images that are explained are kept, and the same command goes on after them."""
    from xaitune.explain import api

    network(scaled=True).save(tmp_path / "mine.keras")
    (tmp_path / "many").mkdir()
    for i in range(5):
        Image.fromarray(np.roll(images[i % 3], i, axis=0)).save(tmp_path / f"many/{i}.png")
    monkeypatch.setattr(api, "CHUNK", 2)
    command = ["explain", "many", "--model", "mine.keras", "--method", method, "--num-samples", "40", "--out", "out"]
    made, explained = api.iter_explanations, []

    def stopped(*args, **options):
        for explanation in made(*args, **options):
            explained.extend(explanation.files)
            if len(explained) == (3 if method == "lime" else 4):
                raise KeyboardInterrupt
            yield explanation

    monkeypatch.setattr(api, "iter_explanations", stopped)
    answer = xaitune(tmp_path, *command)
    assert (answer.status, "run the same command again to go on" in answer.err) == (130, True)
    assert not (tmp_path / "out/explain.json").exists()
    monkeypatch.setattr(api, "iter_explanations", made)
    resumed = xaitune(tmp_path, *command)
    assert resumed.status == 0, resumed.err
    assert "Resuming after 2 of 5 images" in resumed.out
    rows = json.loads((tmp_path / "out/explain.json").read_text(encoding="utf-8"))["maps"]
    assert list(dict.fromkeys(row["file"] for row in rows)) == [f"many/{i}.png" for i in range(5)]


def test_masks_and_other_files_among_the_images(images, files, tmp_path):
    """Masks beside the images, and files of other endings, in a folder given to `predict` -> left out, counted and said."""
    network(scaled=True).save(tmp_path / "mine.keras")
    Image.fromarray(np.uint8(images[0] > 250)[..., 0] * 255).save(files / "0_mask.png")
    (files / "notes.heic").write_bytes(b"?")
    answer = xaitune(tmp_path, "predict", "mine.keras", files, "--csv", "out.csv")
    assert answer.status == 0, answer.err
    assert "1 mask among the images left out, the first:" in answer.out
    assert "Files that are no images were passed over: 1 .heic" in answer.out
    assert len((tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()) == 4
    named = xaitune(tmp_path, "predict", "mine.keras", files / "0.png", files / "0_mask.png", "--json")
    assert len(named.json["predictions"]) == 2


def test_deep_images_for_a_model_of_ones_own(images, tmp_path):
    """12-bit values in 16-bit files given to `predict` -> a warning with the range; --bit-depth reads them as 8-bit copies."""
    model = network(activation="softmax", scaled=True)
    model.save(tmp_path / "mine.keras")
    for folder in ("deep", "plain"):
        (tmp_path / folder).mkdir()
    grey = images[0, ..., 0]
    Image.fromarray((grey.astype(np.float64) * 4095 / 255).round().astype(np.uint16)).save(tmp_path / "deep/0.png")
    Image.fromarray(grey).save(tmp_path / "plain/0.png")
    dark = xaitune(tmp_path, "predict", "mine.keras", "deep", "--json")
    assert "read as nearly black: give --bit-depth 12" in dark.err
    right = xaitune(tmp_path, "predict", "mine.keras", "deep", "--bit-depth", "12", "--json")
    assert "nearly black" not in right.err
    plain = xaitune(tmp_path, "predict", "mine.keras", "plain", "--json")
    p, q = (answer.json["predictions"][0]["p(class 0)"] for answer in (right, plain))
    assert p == pytest.approx(q, abs=1e-3)


def test_pictures_of_a_result_that_is_replaced(files, tmp_path):
    """`explain` again with another class -> the earlier pictures are removed, other files stay."""
    network(scaled=True).save(tmp_path / "mine.keras")
    command = ["explain", files, "--model", "mine.keras", "--out", "out"]
    assert xaitune(tmp_path, *command, "--class", "class 0").status == 0
    (tmp_path / "out/class 0/mine.txt").write_text("kept", encoding="utf-8")
    assert xaitune(tmp_path, *command, "--class", "class 1").status == 0
    assert [path.name for path in (tmp_path / "out/class 0").iterdir()] == ["mine.txt"]
    assert len(list((tmp_path / "out/class 1").glob("*.png"))) == 3
