"""What every explanation method must do, and the files that it leaves on disk."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from xaitune.config.choices import METHODS
from xaitune.config.explain_settings import ExplainOptions, LimeOptions
from xaitune.errors import ConfigError, ImageError, ModelError, RunError, RunLockedError
from xaitune.explain.api import explain_images, iter_explanations, make_explainer
from xaitune.explain.classifier import Classifier, open_classifier
from xaitune.explain.heatmaps import BlockHeatmaps
from xaitune.explain.store import ExplanationWriter, load_heatmaps
from xaitune.models.blocks import freeze_blocks
from xaitune.models.vgg import build_vgg16

CLASSES = ("균열", "hole", "no defect")
FAST = {"num_samples": 30, "segmenter": "slic"}


@pytest.fixture(scope="module")
def classifier():
    return Classifier(build_vgg16(3, image_size=(32, 64), weights="slim", seed=3), CLASSES)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A grey, an RGB, a palette and an RGBA file in a folder with a Korean name, none of the model's size."""
    folder = tmp_path_factory.mktemp("images") / "사진"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rgb = cv2.resize(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8), (80, 60))
    pictures = {"grey": Image.fromarray(rgb[..., 0]), "rgb": Image.fromarray(rgb)}
    pictures |= {"palette": pictures["rgb"].quantize(16), "rgba": pictures["rgb"].convert("RGBA")}
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png")
    return folder


def arrays_of(explanation):
    """The arrays of an explanation, one list per image."""
    if isinstance(explanation, BlockHeatmaps):
        return [[explanation.raw[b][i] for b in explanation.blocks] for i in range(len(explanation))]
    return [[w, s] for w, s in zip(explanation.class_weights, explanation.segments, strict=True)]


def assert_equal(arrays_a, arrays_b, atol=1e-5):
    for a, b in zip(arrays_a, arrays_b, strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    @pytest.mark.parametrize("name", ["grey", "rgb", "palette", "rgba"])
    def test_files_of_every_kind(self, classifier, files, method, name):
        explanation = explain_images(classifier, files / f"{name}.png", method=method, **FAST)
        assert len(explanation) == 1
        assert explanation.method == method
        assert explanation.images.shape == (1, 32, 64, 3)
        assert explanation.files == (str(files / f"{name}.png"),)
        assert explanation.class_names == CLASSES
        np.testing.assert_allclose(explanation.probabilities.sum(axis=1), 1, atol=1e-6)
        assert explanation.classes[0] == explanation.probabilities[0].argmax()
        for array in arrays_of(explanation)[0]:
            assert np.isfinite(array).all()
            assert array.std() > 0

    def test_a_grey_file_is_explained_as_in_rgb(self, classifier, files, method, tmp_path):
        grey = Image.open(files / "grey.png")
        grey.convert("RGB").save(tmp_path / "grey.png")
        one = explain_images(classifier, files / "grey.png", method=method, **FAST)
        two = explain_images(classifier, tmp_path / "grey.png", method=method, **FAST)
        assert_equal(arrays_of(one)[0], arrays_of(two)[0], 0)

    def test_a_batch_equals_single_images(self, classifier, files, method):
        together = explain_images(classifier, files, method=method, **FAST)
        names = ["grey.png", "palette.png", "rgb.png", "rgba.png"]
        assert [file.rsplit("/", 1)[-1] for file in together.files] == names
        for i, file in enumerate(together.files):
            assert_equal(arrays_of(together)[i], arrays_of(explain_images(classifier, file, method=method, **FAST))[0])

    def test_an_array_is_explained_as_its_file(self, classifier, files, method):
        explanation = explain_images(classifier, files / "rgb.png", method=method, **FAST)
        array = classifier.read(files / "rgb.png")[0]
        assert_equal(arrays_of(explain_images(classifier, array, method=method, **FAST))[0], arrays_of(explanation)[0])
        assert_equal(
            arrays_of(explain_images(classifier.model, array[0], method=method, **FAST))[0], arrays_of(explanation)[0]
        )

    def test_class_name(self, classifier, files, method):
        explanation = explain_images(classifier, files, method=method, class_name="균열", **FAST)
        assert explanation.classes.tolist() == [0] * 4
        other = explain_images(classifier, files, method=method, class_name="hole", **FAST)
        values = [e.weights if method == "lime" else e.raw[5] for e in (explanation, other)]
        assert not np.allclose(values[0][0], values[1][0], atol=1e-9)
        with pytest.raises(ModelError, match=r"Unknown class 'hol'\. Did you mean 'hole'\?"):
            explain_images(classifier, files, method=method, class_name="hol", **FAST)

    @pytest.mark.parametrize("through", [3, 5])
    def test_freezing_does_not_change_the_explanation(self, classifier, files, method, through):
        model = classifier.model
        free = explain_images(classifier, files / "rgb.png", method=method, **FAST)
        try:
            freeze_blocks(model, through)
            before = [w.copy() for w in model.get_weights()], [layer.trainable for layer in model.layers]
            frozen = explain_images(classifier, files / "rgb.png", method=method, **FAST)
            assert all(np.array_equal(a, b) for a, b in zip(before[0], model.get_weights(), strict=True))
            assert [layer.trainable for layer in model.layers] == before[1]
        finally:
            freeze_blocks(model, 0)
        assert_equal(arrays_of(frozen)[0], arrays_of(free)[0])

    def test_written_and_read_again(self, classifier, files, method, tmp_path):
        folder = tmp_path / "설명"
        explain = make_explainer(
            classifier, ExplainOptions(method, class_name="균열"), LimeOptions(num_samples=FAST["num_samples"])
        )
        about = {"method": method, "class_names": list(CLASSES), "rule": "gradcam"}
        parts = []
        with ExplanationWriter(folder, about) as writer:
            for part in iter_explanations(classifier, sorted(files.iterdir()), explain, size=3):  # two batches
                writer.add(part)
                parts.append(part)
            written = writer.close()
        assert sorted(p.name for p in (folder / "균열").iterdir()) == [
            "grey.png", "palette.png", "rgb.png", "rgba.png",
        ]  # fmt: skip
        for picture in (folder / "균열").iterdir():
            assert np.asarray(Image.open(picture).convert("L")).std() > 10  # not blank
        assert written["pictures"] == 4
        assert (folder / "contact-sheet.png").is_file()
        assert sorted(p.name for p in folder.iterdir()) == sorted(
            ["균열", "contact-sheet.png", "explain.json", "heatmaps.npz"]
        )
        listed = json.loads((folder / "explain.json").read_text(encoding="utf-8"))
        assert {row["class"] for row in listed["maps"]} == {"균열"}
        if method == "lime":
            with pytest.raises(RunError, match="holds LIME superpixels, not heatmaps"):
                load_heatmaps(folder)
            with np.load(folder / "heatmaps.npz", allow_pickle=False) as archive:
                np.testing.assert_array_equal(archive["class_weights/00001"], parts[1].class_weights[0].T)
                np.testing.assert_array_equal(archive["segments/00000"], np.stack(parts[0].segments))
            return
        for path in (folder, folder / "heatmaps.npz"):
            loaded = load_heatmaps(path)
            assert loaded.files == parts[0].files + parts[1].files
            assert loaded.class_names == CLASSES
            assert loaded.precision == listed["precision"] == parts[0].precision
            for b in loaded.blocks:
                np.testing.assert_array_equal(loaded.raw[b], np.concatenate([part.raw[b] for part in parts]))
            np.testing.assert_array_equal(loaded.images, np.concatenate([part.images for part in parts]))

    def test_a_picture_says_what_is_predicted_and_what_is_true(self, classifier, files, method, tmp_path):
        image = tmp_path / "균열" / "1.png"
        image.parent.mkdir()
        shutil.copy(files / "rgb.png", image)
        for class_name in CLASSES:
            made = explain_images(classifier, image, method=method, class_name=class_name, **FAST)
            shares = made.probabilities[0]
            top = CLASSES[shares.argmax()]
            asked = "" if class_name == top else f"{class_name} (p = {shares[CLASSES.index(class_name)]:.2f}); "
            caption = " ".join(" ".join(text.get_text() for text in made.plot().texts).split())
            assert f"{method}: {asked}predicted {top} (p = {shares.max():.2f}); true class 균열" in caption
            shown = re.findall(r"(\d+)%", caption.partition("positive share: ")[2])
            assert "0" not in shown

    def test_a_single_picture_has_no_contact_sheet(self, classifier, files, method, tmp_path):
        about = {"method": method, "class_names": list(CLASSES), "rule": "gradcam"}
        with ExplanationWriter(tmp_path, about) as writer:
            writer.add(explain_images(classifier, files / "rgb.png", method=method, **FAST))
            assert "contact_sheet" not in writer.close()
        assert not (tmp_path / "contact-sheet.png").exists()

    def test_unreadable_files_are_named(self, classifier, method, tmp_path):
        (tmp_path / "text.png").write_text("no image")
        with pytest.raises(ImageError, match=r"text\.png"):
            explain_images(classifier, tmp_path / "text.png", method=method, **FAST)
        with pytest.raises(ImageError, match=r"none\.png"):
            explain_images(classifier, tmp_path / "none.png", method=method, **FAST)


def test_files_with_the_same_name_get_their_own_pictures(classifier, files, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes((files / "rgb.png").read_bytes())
    explanation = explain_images(
        classifier, [tmp_path / "a" / "x.png", tmp_path / "b" / "x.png"], blocks=5, class_name="hole"
    )
    with ExplanationWriter(
        tmp_path / "out", {"method": "gradcam", "class_names": CLASSES, "rule": "gradcam"}
    ) as writer:
        writer.add(explanation)
        writer.close()
    assert sorted(p.name for p in (tmp_path / "out" / "hole").iterdir()) == ["x-2.png", "x.png"]


def test_a_class_name_is_not_used_as_a_path(files, tmp_path):
    names = ("../up", "a/b", "..")
    classifier = Classifier(build_vgg16(3, image_size=(32, 32), weights="slim"), names)
    with ExplanationWriter(tmp_path / "out", {"method": "cam", "class_names": names, "rule": "gradcam"}) as writer:
        for name in names:
            writer.add(explain_images(classifier, files / "rgb.png", method="cam", class_name=name))
        writer.close()
    folders = {p.parent.name for p in (tmp_path / "out").rglob("rgb*.png")}
    assert folders == {"_up", "a_b", "_"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_write_leaves_the_old_result(classifier, files, tmp_path):
    about = {"method": "cam", "class_names": CLASSES, "rule": "gradcam"}
    explanation = explain_images(classifier, files, method="cam")
    with ExplanationWriter(tmp_path, about) as writer:
        writer.add(explanation)
        writer.close()
    with ExplanationWriter(tmp_path, about) as writer:  # left before close(), as after an error or Ctrl-C
        writer.add(explain_images(classifier, files / "rgb.png", method="cam"))
    assert load_heatmaps(tmp_path).files == explanation.files
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("method", ["gradcam", "lime"])
def test_an_interrupted_writer_is_taken_over_by_one_of_the_same_identity(classifier, files, tmp_path, method):
    """The result is that of an undisturbed one; another identity begins anew."""
    about = {"method": method, "class_names": CLASSES, "rule": "gradcam"}
    first, second = (
        explain_images(classifier, files / name, method=method, num_samples=40) for name in ("rgb.png", "grey.png")
    )
    with ExplanationWriter(tmp_path / "whole", about) as writer:
        writer.add(first)
        writer.add(second)
        expected = writer.close()
    with ExplanationWriter(tmp_path / "cut", about, {"of": 1}) as writer:
        writer.add(first)
    with ExplanationWriter(tmp_path / "cut", about, {"of": 1}) as writer:
        assert writer.done == 1
        with pytest.raises(RunLockedError, match="Another process is writing"):
            ExplanationWriter(tmp_path / "cut", about, {"of": 1})
        writer.add(second)
        made = writer.close()
    assert made["pictures"] == expected["pictures"] == 2
    for name in ("explain.json", "contact-sheet.png"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with np.load(tmp_path / "cut/heatmaps.npz") as cut, np.load(tmp_path / "whole/heatmaps.npz") as whole:
        assert cut.files == whole.files
        for key in whole.files:
            np.testing.assert_array_equal(cut[key], whole[key])
    assert not list((tmp_path / "cut").glob(".*"))
    with ExplanationWriter(tmp_path / "cut", about, {"of": 1}) as writer:
        writer.add(first)
    with ExplanationWriter(tmp_path / "cut", about, {"of": 2}) as writer:
        assert writer.done == 0


def test_damaged_folders(tmp_path):
    with pytest.raises(RunError, match=r"explain\.json is missing or damaged"):
        load_heatmaps(tmp_path)
    about = {"method": "cam", "class_names": CLASSES, "rule": "gradcam", "maps": []}
    (tmp_path / "explain.json").write_text(json.dumps(about))
    for content in (None, b"", b"PK half", b"text"):
        if content is not None:
            (tmp_path / "heatmaps.npz").write_bytes(content)
        with pytest.raises(RunError, match=r"heatmaps\.npz is missing or damaged"):
            load_heatmaps(tmp_path)


def test_wrong_methods_and_options_are_refused(classifier, files):
    with pytest.raises(ConfigError, match=r"method must be one of gradcam, cam, lime\. .* Did you mean 'gradcam'\?"):
        explain_images(classifier, files, method="gradcan")
    with pytest.raises(ConfigError, match=r"block must be 1\.\.5"):
        explain_images(classifier, files, blocks=7)
    with pytest.raises(ConfigError, match="num_samples must be a whole number of at least 2"):
        explain_images(classifier, files, method="lime", num_samples=1)
    with pytest.raises(ConfigError, match=r"Did you mean 'slic'\?"):
        explain_images(classifier, files, method="lime", segmenter="slick")
    with pytest.raises(ConfigError, match=r"CAM is drawn at the last block only"):
        explain_images(classifier, files, method="cam", blocks=3)
    with pytest.raises(TypeError):
        explain_images(classifier, files, blok=3)  # a misspelled option is not ignored


def test_plain_keras_models_have_numbered_classes(classifier):
    assert open_classifier(classifier.model).class_names == ("class 0", "class 1", "class 2")
    assert open_classifier(classifier) is classifier
    assert classifier.image_size == (32, 64)


@pytest.mark.parametrize("method", METHODS)
def test_a_diverged_model_is_refused(files, method):
    model = build_vgg16(3, image_size=(32, 64), weights="slim", seed=3)
    kernel = model.get_layer("logits").get_weights()[0]
    model.get_layer("logits").set_weights([kernel, np.array([0, np.nan, 0])])
    with pytest.raises(ModelError, match=r"run 7 returns NaN or infinity\. It has diverged: train it again"):
        explain_images(Classifier(model, CLASSES, name="run 7"), files, method=method, **FAST)
