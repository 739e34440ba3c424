"""What doctor finds on a machine, and says about one that lacks things."""

import configparser
from pathlib import Path

from driving import xaitune

from xaitune import _machine, doctor
from xaitune.doctor import GOOD, MISSING, SLOW, examine, summary, versions


def test_every_finding_says_what_to_do_about_it(tmp_path):
    findings = examine(tmp_path / "not" / "yet")
    assert {f.what for f in findings} >= {
        "processor",
        "precision",
        "memory",
        "disk",
        "GPU",
        "ImageNet's VGG16",
        "browser",
        "a training",
        "tensorboard",
        "mlflow",
    }
    for finding in findings:
        assert finding.state in (GOOD, SLOW, MISSING)
        assert finding.found
        assert finding.advice or finding.state != MISSING
    assert str(tmp_path) in next(f.found for f in findings if f.what == "disk")


def test_every_extra_that_is_named_exists():
    with (Path(__file__).parents[1] / "setup.cfg").open(encoding="utf-8") as file:
        setup = configparser.ConfigParser()
        setup.read_file(file)
    extras = setup["options.extras_require"]
    assert set(doctor.EXTRAS) <= set(extras)
    everything = extras["all"].strip().removeprefix("xaitune[").removesuffix("]").split(",")
    assert set(everything) == set(extras) - {"all", "docs", "test"} - {
        "export-onnx",
        "export-openvino",
    }  # both in export
    assert extras["export"].strip() == "xaitune[export-onnx,export-openvino]"


def test_a_poor_machine_is_told_why_it_is_slow(tmp_path, monkeypatch):
    monkeypatch.setattr(_machine, "half_units", list)
    monkeypatch.setattr(_machine, "usable_cores", lambda: 1)
    monkeypatch.setattr(_machine, "memory", lambda: (int(4e9), int(1e9)))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    found = {f.what: f for f in examine(tmp_path)}
    assert found["precision"].state == found["memory"].state == found["processor"].state == SLOW
    assert found["browser"].state == MISSING
    assert "a training" in found
    assert "--image-size" in found["precision"].advice
    assert "precision" in summary(list(found.values()))
    assert summary([]) == "Nothing here will be slow."


def test_the_command(tmp_path):
    said = xaitune(tmp_path, "doctor", "--json")
    assert said.status == 0, said.err
    assert said.json["versions"] == versions()
    assert {f["state"] for f in said.json["findings"]} <= {GOOD, SLOW, MISSING}
