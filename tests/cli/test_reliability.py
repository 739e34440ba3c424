"""`xaitune explain --check` and `--verify` as a user drives them, with a small trained run."""

import json
import shutil

import numpy as np
import pytest
from driving import xaitune

import xaitune as xt
from xaitune.explain.map_checks import DOUBTS


@pytest.fixture(scope="module")
def images(demo):
    """Three images of cracks."""
    return [path for path in demo.paths() if path.parent.name == "crack"][:3]


@pytest.fixture
def place(run, images, tmp_path):
    """A folder with copies of the run and of the images, to be changed."""
    shutil.copytree(run.path, tmp_path / "run")
    (tmp_path / "crack").mkdir()
    for path in images:
        shutil.copy(path, tmp_path / "crack" / path.name)
    return tmp_path


def explain(folder, *options):
    answer = xaitune(folder, "explain", "crack", "--model", "run", "--out", "e", "--json", *options)
    assert answer.status == 0, answer.err
    return answer


def test_checks_stand_in_the_list_on_the_screen_and_in_the_maps(place):
    answer = explain(place, "--check", "--block", "3-5")
    told = json.loads((place / "e/explain.json").read_text(encoding="utf-8"))
    doubts = [row["doubts"] for row in told["maps"]]
    assert len(doubts) == 9
    assert answer.json["doubtful_maps"] == sum(map(bool, doubts))
    assert answer.json["doubts"] == {name: sum(name in each for each in doubts) for name in DOUBTS}
    assert "Checking the maps: 162 forward passes (weights randomised on 3 images), " in answer.err
    assert "maps should not be relied on:" in answer.err or "None of the 9 maps failed a check." in answer.err
    assert told["checks"]["images_randomised"] == 3
    maps = xt.load_heatmaps(place / "e")
    for image in range(3):
        for block in (3, 4, 5):
            row = told["maps"][(block - 3) * 3 + image]
            assert list(maps.doubts(image, block)) == row["doubts"]
            assert maps.checks.elsewhere[image, block - 3] == row["check_elsewhere"]
    again = xt.check_maps(maps, place / "run")
    np.testing.assert_allclose(again.elsewhere, maps.checks.elsewhere)
    np.testing.assert_allclose(again.randomised, maps.checks.randomised, atol=1e-4)


def test_without_check_only_emptiness_is_told(place):
    answer = explain(place, "--block", "5")
    rows = json.loads((place / "e/explain.json").read_text(encoding="utf-8"))["maps"]
    assert [row["doubts"] for row in rows] == [["no positive evidence"] if row["is_zero"] else [] for row in rows]
    assert "doubtful_maps" not in answer.json
    assert "check_elsewhere" not in rows[0]
    assert xt.load_heatmaps(place / "e").checks is None


def test_check_and_verify_refuse_what_they_cannot_do(place):
    assert "LIME reports its stability" in xaitune(place, "explain", "crack", "--method", "lime", "--check").error
    assert "leave the images out" in xaitune(place, "explain", "crack", "--verify", "e/explain.json").error
    assert "give image files or folders" in xaitune(place, "explain").error
    assert "missing or damaged" in xaitune(place, "explain", "--verify", "e/explain.json").error
    (place / "old.json").write_text('{"method": "gradcam", "maps": []}')
    assert "Explain the images again" in xaitune(place, "explain", "--verify", "old.json").error


@pytest.mark.parametrize(
    "options", [(), ("--method", "cam"), ("--method", "lime", "--num-samples", "60", "--seed", "3")]
)
def test_an_untouched_explanation_has_the_same_bits(place, options):
    explain(place, *options)
    answer = xaitune(place, "explain", "--verify", "e/explain.json", "--json")
    assert answer.status == 0, answer.err
    told = answer.json
    assert told["verdict"] == "the same bits"
    assert told["changed"] == []
    assert {row["largest_difference"] for row in told["maps"]} == {0.0}
    assert len(told["maps"]) == 3 * (5 if not options else 1)
    assert "Model, images and versions are unchanged." in answer.err


def test_a_changed_image_is_named_and_its_maps_have_moved(place, images):
    explain(place, "--block", "5")
    shutil.copy(images[1], place / "crack" / images[0].name)
    answer = xaitune(place, "explain", "--verify", "e/explain.json", "--json")
    assert answer.status == 1
    assert answer.json["changed"] == [f"1 image (crack/{images[0].name})"]
    assert [row["verdict"] for row in answer.json["maps"]] == ["moved", "the same bits", "the same bits"]
    assert "has moved beyond rounding" in answer.error


def test_a_changed_model_and_another_version_are_named(place):
    from xaitune.models.model_files import load_model

    explain(place, "--block", "4-5")
    file = place / "run" / "model.keras"
    model = load_model(file)
    kernel, bias = model.get_layer("block5_conv3").get_weights()
    model.get_layer("block5_conv3").set_weights([kernel * (1 + 1e-6), bias])
    model.save(file)
    listed = place / "e/explain.json"
    about = json.loads(listed.read_text(encoding="utf-8"))
    about["made_from"]["versions"]["keras"] = "3.0.0"
    listed.write_text(json.dumps(about), encoding="utf-8")
    answer = xaitune(place, "explain", "--verify", "e/explain.json", "--json")
    assert answer.status == 0, answer.err
    assert answer.json["verdict"] == "the same within rounding"
    assert answer.json["changed"][0] == "the model's weights (run)"
    assert answer.json["changed"][1].startswith("keras 3.0.0 -> 3.")
    model.get_layer("block5_conv3").set_weights([kernel[..., ::-1], bias])
    model.save(file)
    assert xaitune(place, "explain", "--verify", "e/explain.json").status == 1


def test_a_missing_image_or_model_is_one_message(place, images):
    explain(place, "--block", "5")
    (place / "run").rename(place / "elsewhere")
    answer = xaitune(place, "explain", "--verify", "e/explain.json")
    assert answer.status == 2
    assert answer.error.endswith("is not at run any more. Name it with --model PATH.")
    answer = xaitune(place, "explain", "--verify", "e/explain.json", "--model", "elsewhere", "--json")
    assert (answer.status, answer.json["verdict"]) == (0, "the same bits")
    (place / "crack" / images[0].name).unlink()
    answer = xaitune(place, "explain", "--verify", "e/explain.json")
    assert answer.status == 2
    assert f"1 of 3 images of e/explain.json not found, the first: crack/{images[0].name}." in answer.error
