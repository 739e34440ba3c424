"""Exported files: each format gives what the run gives, knows its classes, and does not exist if the proof fails."""

import importlib.util
import json
import shutil
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from driving import files, python, xaitune
from PIL import Image

import xaitune as xt
from xaitune.errors import ConfigError, ImageError, ModelError, RunError
from xaitune.export import formats, writer
from xaitune.export.formats import FORMATS, format_of
from xaitune.export.proof import TOLERANCE, Comparison
from xaitune.models.predict import Predictor

PACKAGES = {package for form in FORMATS.values() for package in (*form.writes, *form.runs)}
MISSING = sorted(name for name in PACKAGES if importlib.util.find_spec(name) is None)
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} missing: pip install 'xaitune[export]'")


@pytest.fixture(scope="module")
def few(demo):
    """Five images of the demo."""
    return demo.paths()[::25]


@pytest.fixture(scope="module")
def exports(run, few, tmp_path_factory):
    """The run in every format, with heatmaps: name of the format -> Export."""
    folder = tmp_path_factory.mktemp("exports")
    return {
        name: xt.export_run(run, name, path=folder / f"parts{form.suffix}", with_heatmap=True, images=few)
        for name, form in FORMATS.items()
    }


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_gives_what_the_run_gives_in_batches_of_any_size(run, exports, demo, name):
    model = xt.open_exported(exports[name].path)
    images = model.read_paths(demo.paths()[1:90:12])  # none of those in the proof
    maps = {k: xt.class_activation_map(run, images, class_name=k, precision="float32").raw[5] for k in run.class_names}
    logits = Predictor(run.model)(images)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.ptp(shares, axis=0).max() > 0.01  # the images differ
    for count in (1, 3, len(images)):
        outputs = model.forward(images[:count].astype(np.float32))
        assert outputs["probabilities"].shape == (count, len(run.class_names))
        np.testing.assert_allclose(outputs["probabilities"], shares[:count], atol=1e-5)
        np.testing.assert_allclose(outputs["logits"], logits[:count], atol=1e-5 * np.abs(logits).max())
        for k, values in enumerate(maps.values()):
            np.testing.assert_allclose(outputs["heatmaps"][:, k], values[:count], atol=1e-5 * np.abs(values).max())
    with pytest.raises(ModelError, match=r"takes images of shape \(32, 32, 3\)"):
        model(np.zeros((1, 16, 16, 3), np.float32))


@pytest.mark.parametrize("name", FORMATS)
def test_metadata_and_proof(run, exports, few, name):
    made = exports[name]
    about = xt.open_exported(made.path).about
    assert about == {
        "xaitune": xt.__version__,
        "run": run.name,
        "data": run.fingerprint,
        "trained_on": {"images": len(run.paths("train")), "of": "/".join(Path(run.data_config.path).parts[-2:])},
        "task": "classify",
        "class_names": list(run.class_names),
        "image_size": [32, 32],
        "resize": "stretch",
        "bit_depth": None,
        "outputs": ["probabilities", "logits", "heatmaps"],
    }
    proof = json.loads(made.path.with_name(f"{made.path.name}.proof.json").read_text())
    assert proof == made.proof
    assert (proof["images"], proof["same_class"], proof["tolerance"]) == (len(few), len(few), TOLERANCE)
    assert set(proof["largest_difference"]) == set(about["outputs"])
    assert 0 <= max(proof["largest_difference"].values()) < 1e-5
    assert {"xaitune", "keras", "numpy"} <= set(proof["versions"])
    assert made.path.name in proof["sha256"] or name == "savedmodel"
    assert f"on all {len(few)} images" in made.sentence()
    assert list(made.to_dataframe().index) == about["outputs"]


def test_metadata_is_where_other_programs_find_it(exports):
    import onnx

    from xaitune.export.session import import_openvino

    graph = onnx.load(exports["onnx"].path)
    assert json.loads({p.key: p.value for p in graph.metadata_props}["xaitune"])["class_names"]
    dims = [d.dim_param or d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["n", 32, 32, 3]
    ir = import_openvino("").Core().read_model(exports["openvino"].path)
    assert json.loads(ir.get_rt_info("xaitune").value)["class_names"]
    assert "openvino_telemetry.main" not in sys.modules


def test_without_heatmaps_an_export_has_none(run, few, tmp_path):
    made = xt.export_run(run, "keras", path=tmp_path / "plain.keras", images=few[:1])
    model = xt.open_exported(made.path)
    assert model.about["outputs"] == ["probabilities", "logits"] == list(model(model.read_paths(few[:2])))


def test_predict_gives_the_same_csv(run, exports, few, tmp_path):
    answer = xaitune(tmp_path, "predict", run.path, *few, "--csv", "run.csv")
    expected = pd.read_csv(tmp_path / "run.csv")
    for name, made in exports.items():
        again = xaitune(tmp_path, "predict", made.path, *few, "--csv", f"{name}.csv", "--json")
        assert again.status == 0, again.err
        table = pd.read_csv(tmp_path / f"{name}.csv")
        pd.testing.assert_frame_equal(table, expected, check_exact=False, atol=1e-5)
        assert [row["file"] for row in again.json["predictions"]] == list(map(str, few))
    printed = xaitune(tmp_path, "predict", exports["onnx"].path, *few, "--csv", "run.csv")
    note, _, shown = printed.out.partition("\n")
    assert note.startswith(f"{exports['onnx'].path} was trained on {len(run.paths('train'))} images of ")
    assert answer.out.startswith(shown.rpartition("Wrote")[0])  # to three digits
    assert "Least sure: " in printed.out
    assert "Probabilities, computed in float32" in printed.out
    least = expected.loc[expected["probability"].idxmin(), "file"]
    assert printed.out.endswith(f"Next: xaitune explain {least} --model RUN\n")  # an exported file cannot be explained
    unwritten = xaitune(tmp_path, "predict", exports["onnx"].path, few[0], "--json").json["next"]
    assert unwritten == f"xaitune predict {exports['onnx'].path} IMAGES --csv predictions.csv"
    refused = xaitune(tmp_path, "predict", exports["onnx"].path, few[0], "--preprocess", "torch")
    assert refused.status == 2
    assert "preprocess is for a model of your own" in refused.error


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_predict_loads_no_tensorflow(exports, few, tmp_path, name):
    script = """
import sys
from xaitune.cli.app import main
sys.argv = ["xaitune", "predict", sys.argv[1], sys.argv[2], "--csv", "out.csv", "--json"]
try:
    main()
except SystemExit as end:
    print(end.code, [m for m in ("tensorflow", "keras", "openvino_telemetry.main") if m in sys.modules])
"""
    printed = python(script, exports[name].path, few[0], folder=tmp_path)
    assert printed.splitlines()[-1] == "0 []"
    assert len(pd.read_csv(tmp_path / "out.csv")) == 1


def test_a_failing_proof_leaves_nothing_behind(run, few, tmp_path, monkeypatch):
    """The file is written with another head: its answers are not the run's."""
    (kernel, bias), write = run.model.get_layer("logits").get_weights(), writer.WRITERS["keras"]

    def write_other(model, path, about):
        model.get_layer("logits").set_weights([kernel + 1e-3 * np.arange(len(bias)), bias])
        try:
            write(model, path, about)
        finally:
            model.get_layer("logits").set_weights([kernel, bias])

    earlier = tmp_path / "parts.keras"
    earlier.write_text("what was there")
    monkeypatch.setitem(writer.WRITERS, "keras", write_other)
    with pytest.raises(
        RunError, match=r"parts\.keras does not give what .* gives, and was not kept: probabilities differ"
    ):
        xt.export_run(run, "keras", path=earlier, overwrite=True, images=few)
    assert files(tmp_path) == {"parts.keras": b"what was there"}
    with pytest.raises(RunError, match="was not kept"):
        xt.export_run(run, "keras", path=tmp_path / "new/parts.keras", images=few[:1])
    assert [path.name for path in tmp_path.iterdir()] == ["parts.keras"]


def test_a_file_is_not_replaced_by_one_that_gives_less(run, few, tmp_path):
    shutil.copytree(run.path, tmp_path / "runs/own")

    def export(*options):
        return xaitune(tmp_path, "export", "runs/own", few[0], "--to", "keras", *options)

    def outputs():
        return xt.open_exported(tmp_path / "runs/export/own.keras").about["outputs"]

    for options in ([], ["--with-heatmap"], ["--with-heatmap"]):  # the same, and more, replace it
        assert export(*options).status == 0
    before = files(tmp_path / "runs/export")
    refused = export()
    assert refused.status == 2
    assert "own.keras exists and has heatmaps, which the new file would lack." in refused.error
    assert "Choose another --output, or replace it with --overwrite." in refused.error
    assert files(tmp_path / "runs/export") == before
    assert export("--overwrite").status == 0
    assert outputs() == ["probabilities", "logits"]
    run.model.save(tmp_path / "runs/own/model.keras")  # another file: the run was trained again
    assert "exists and was not written from this model" in export("--with-heatmap").error
    assert outputs() == ["probabilities", "logits"]


def test_the_script_of_the_docs_draws_the_heatmap(run, exports, demo, tmp_path):
    """It runs without xaitune, and warms the pixels where the map is highest."""
    page = Path(__file__).parents[2] / "docs/export.md"
    script = "import cv2" + page.read_text(encoding="utf-8").partition("```python\nimport cv2")[2].partition("```")[0]
    assert "xaitune" not in script.replace('["xaitune"]', "")
    assert len(script.splitlines()) == 15
    image = next(path for path in demo.paths() if path.parent.name == "crack")
    show = "\nplt.gcf().canvas.draw(); print(plt.gca().get_title(), np.argmax(plt.gca().images[1].get_array()))\n"
    arguments = (exports["onnx"].path, image, tmp_path / "heatmap.png")
    printed = python(script + show, *arguments, MPLBACKEND="agg").split()
    maps = xt.class_activation_map(run, [image], precision="float32")
    share = maps.probabilities[0].max()
    assert printed[:2] == [f"{run.class_names[maps.classes[0]]}:", f"{share:.3f}"]
    assert int(printed[-1]) == maps.raw[5][0].argmax()
    with Image.open(tmp_path / "heatmap.png") as drawn:
        assert np.ptp(np.asarray(drawn.convert("RGB")), axis=2).max() > 100  # in colour
    plain = xt.export_run(run, "onnx", path=tmp_path / "plain.onnx", images=[image]).path
    said = "try:\n" + textwrap.indent(script, "    ")
    printed = python(f"{said}\nexcept SystemExit as end:\n    print(end)", plain, image, tmp_path / "none.png")
    assert printed.strip() == f"{plain} has no heatmaps: export the run with --with-heatmap."
    assert not (tmp_path / "none.png").exists()


def test_what_counts_as_different():
    expected = {"probabilities": np.array([[0.6, 0.4], [0.5, 0.5]]), "logits": np.array([[2.0, 0.0], [0.0, 0.0]])}

    def problem(**changes):
        comparison = Comparison()
        comparison.add(["a.png", "b.png"], expected, {**expected, **changes})
        return comparison.problem()

    assert problem() == ""
    assert problem(logits=expected["logits"] + 1.9e-4) == ""  # 0.95e-4 of the largest value
    assert "logits differ by up to 0.00011 of" in problem(logits=expected["logits"] + 2.2e-4)
    assert "most for b.png" in problem(probabilities=np.array([[0.6, 0.4], [0.5, 0.4998]]))
    assert problem(probabilities=np.array([[0.6, 0.4], [0.49999, 0.50001]])) == "1 image of 2 get another class."
    assert "logits differ by up to inf" in problem(logits=np.full((2, 2), np.nan))
    with pytest.raises(RunError, match="other outputs"):
        problem(logits=np.zeros((2, 3)))


def test_near_ties_of_pixels_are_rounding():
    pixels = np.array([[[[0.9, 0.1], [0.50004, 0.49996]]]])  # (1, 1, 2, 2)
    flipped, wrong = pixels.copy(), pixels.copy()
    flipped[..., 1, :] = flipped[..., 1, ::-1]
    wrong[..., 0, :] = wrong[..., 0, ::-1]
    for received, same in ((flipped, 1), (wrong, 0)):
        comparison = Comparison()
        comparison.add(["a.png"], {"probabilities": pixels}, {"probabilities": received})
        assert comparison.same == same


def test_the_command(run, demo, tmp_path):
    """The images are those of the run's own test split; the file is beside the run's folder."""
    shutil.copytree(run.path, tmp_path / "runs" / run.name)
    answer = xaitune(tmp_path, "export", f"runs/{run.name}", "--to", "onnx", "--with-heatmap", "--json")
    assert answer.status == 0, answer.err
    tests = int((run.predictions["split"] == "test").sum())
    file = f"runs/export/{run.name}.onnx"
    assert answer.json["wrote"] == [file, f"{file}.proof.json"]
    assert answer.json["proof"]["images"] == tests > 20
    assert answer.json["bytes"] == (tmp_path / file).stat().st_size
    assert answer.json["next"] == f"xaitune predict {file} IMAGES"
    images = demo.paths()[:60]
    predicted = xaitune(tmp_path, "predict", file, *images, "--csv", "all.csv")
    assert f"--model runs/{run.name}\n" in predicted.out.partition("Next: xaitune explain ")[2]
    assert "10 more are not shown: all.csv has all 60." in predicted.out
    assert sorted(p.name for p in (tmp_path / "runs/export").iterdir()) == [Path(w).name for w in answer.json["wrote"]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "onxx"], ["to must be one of onnx, openvino, savedmodel, keras", "'onxx'", "Did you mean 'onnx'?"]),
        (["--to", "openvino", "--output", "part.onnx"], ["A file of OpenVINO ends in .xml", "part.onnx"]),
        (["--output", "there.onnx"], ["there.onnx is a folder"]),
        (["--to", "savedmodel", "--output", "there.onnx"], ["there.onnx exists and is not a SavedModel"]),
        (["--to", "keras", "--output", "RUN/model.keras"], ["is the model of a run"]),
        (["--to", "keras", "--output", "RUN/../{}/model.keras"], ["is the model of a run"]),
        (["missing.png"], ["missing.png"]),
    ],
)
def test_calls_that_are_refused(run, tmp_path, options, words):
    (tmp_path / "there.onnx").mkdir()
    options = [option.replace("RUN", str(run.path)).replace("{}", run.path.name) for option in options]
    before = files(run.path)
    answer = xaitune(tmp_path, "export", run.path, *options, "--json")
    assert answer.status == 2
    assert answer.json == {"error": answer.error.removeprefix("Error: "), "exit_status": 2}
    for word in words:
        assert word in answer.error
    assert files(run.path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["there.onnx"]


def test_images_that_are_gone_must_be_named(run, tmp_path, few):
    shutil.copytree(run.path, tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["data"]["path"] = str(tmp_path / "moved")
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    with pytest.raises(ImageError, match="Name images or folders after the run"):
        xt.export_run(tmp_path / "run", "keras")
    assert xt.export_run(tmp_path / "run", "keras", images=few[:2]).proof["images"] == 2


def test_a_file_is_not_a_run(exports, tmp_path):
    answer = xaitune(tmp_path, "export", exports["onnx"].path)
    assert answer.status == 2
    assert "Give a finished run's folder" in answer.error


def test_only_the_gap_head_has_heatmaps(demo, tmp_path, few):
    for head in ("fc", "blocks"):
        options = {"weights": "slim", "head": head, "freeze_through": 5, "head_epochs": 1, "epochs": 1}
        made = xt.train_model(demo, runs_dir=tmp_path, name=head, precision="float32", **options)
        with pytest.raises(ModelError, match="Only the head gap has heatmaps"):
            xt.export_run(made, "onnx", with_heatmap=True, images=few)
        assert not (tmp_path / "export").exists()
    exported = xt.export_run(made, "onnx", images=few)  # blocks, without heatmaps
    assert exported.proof["same_class"] == len(few)


def test_a_segmentation(segmented, marked, tmp_path):
    """Probabilities of pixels; predict writes the same masks and table."""
    with pytest.raises(ModelError, match="its probabilities of pixels are its maps"):
        xt.export_run(segmented, "onnx", with_heatmap=True)
    path = xt.export_run(segmented, "onnx", path=tmp_path / "pixels.onnx").path
    images = marked.paths()[:3]
    assert xt.open_exported(path).probabilities(xt.open_exported(path).read_paths(images)).shape == (3, 32, 32, 3)
    for name, model in (("run", segmented.path), ("file", path)):
        answer = xaitune(tmp_path, "predict", model, *images, "--csv", f"{name}.csv", "--out", name)
        assert answer.status == 0, answer.err
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "run.csv"), pd.read_csv(tmp_path / "file.csv"), atol=2e-3)
    masks = sorted(p.relative_to(tmp_path / "run") for p in (tmp_path / "run/masks").rglob("*.png"))
    assert len(masks) == 3
    assert all((tmp_path / "file" / mask).is_file() for mask in masks)


def test_a_missing_package(run, exports, few, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    for package, name in (("tf2onnx", "onnx"), ("openvino", "openvino")):
        hidden = lambda wanted, *rest, package=package: None if wanted == package else found(wanted, *rest)  # noqa: E731
        monkeypatch.setattr(formats.importlib.util, "find_spec", hidden)
        with pytest.raises(
            ConfigError, match=rf"needs {package}, which is not installed\. Install it: .*\[export-{name}\]"
        ):
            xt.export_run(run, name, path=tmp_path / f"x{FORMATS[name].suffix}", images=few)
    answer = xaitune(tmp_path, "predict", exports["openvino"].path, few[0])
    assert (answer.status, "pip install 'xaitune[export-openvino]'" in answer.error) == (2, True)
    # The command says so before it looks for the run and reads the images.
    answer = xaitune(tmp_path, "export", "no-run", "no.png", "--to", "openvino")
    assert (answer.status, "needs openvino" in answer.error) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_with_torch_the_command_says_what_works(tmp_path, monkeypatch):
    """Before Keras is loaded: torch need not be installed."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    for name in ("onnx", "openvino", "savedmodel"):
        answer = xaitune(tmp_path, "export", "no-run", "--to", name)
        assert answer.status == 2
        assert "give KERAS_BACKEND=tensorflow. --to keras works with both." in answer.error
    assert "No model at no-run" in xaitune(tmp_path, "export", "no-run", "--to", "keras").error


def test_files_that_are_not_exports(exports, few, tmp_path):
    import onnx

    graph = onnx.load(exports["onnx"].path)
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "foreign.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "text.xml").write_text("no model")
    for name, words in (
        ("foreign.onnx", "lacks the class names and image size"),
        ("text.onnx", "cannot be loaded as ONNX"),
        ("text.xml", "cannot be loaded as OpenVINO"),
        ("gone.onnx", "No file at gone.onnx"),
    ):
        answer = xaitune(tmp_path, "predict", name, few[0])
        assert (answer.status, words in answer.error) == (2, True), answer.err
        assert len(answer.error.splitlines()) <= 2
    assert format_of(tmp_path / "foreign.keras") is None  # a model of the user's own: opened as before
