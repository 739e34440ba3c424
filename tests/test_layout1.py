"""Folders written by version 0.1.0 before run folders named their kind: they load, resume and report.

`layout1/parts.tar.xz`: 60 drawn images of 32x32 with masks and groups; a finished run, an interrupted one (a checkpoint
after its first epoch), an advice, and a sweep of two runs and an interrupted third, all made with `slim`. The model of the
sweep's worse cell is left out.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from driving import xaitune

import xaitune as xt
from xaitune.report.gather import list_runs, report_on
from xaitune.training.checkpoint import Checkpoint
from xaitune.training.folder import folder_kind

ARCHIVE = Path(__file__).parent / "layout1" / "parts.tar.xz"
BASE = xt.TrainConfig(weights="slim", head_epochs=6, epochs=2, precision="float32", batch_size=16)


@pytest.fixture
def old(tmp_path):
    """The folder, unpacked; its images stand where config.json says."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path)  # our own archive; `filter` is newer than the first Python 3.11
    for file in tmp_path.rglob("config.json"):
        file.write_text(file.read_text().replace("/data/parts", str(tmp_path)))
    return tmp_path


@pytest.fixture
def images(old):
    return xt.ImageData.from_folder(old / "images", masks=old / "masks", groups=old / "groups.csv", image_size=(32, 32))


def test_the_archive_is_small_and_of_the_first_layout(old):
    assert ARCHIVE.stat().st_size < 4_000_000
    configs = [json.loads(file.read_text()) for file in old.rglob("config.json")]
    assert len(configs) == 7
    assert all(config["format"] == 1 and "kind" not in config for config in configs)


def test_kinds_of_folders(old):
    kinds = {p.name: folder_kind(p) for p in (old / "runs").iterdir()}
    assert kinds == {"freeze5-nag-seed0": "run", "freeze5-nag-seed1": "run", "sweep": "sweep", "advice": "advice"}
    table = list_runs(old / "runs").set_index("name")
    assert table["kind"].to_dict() == kinds
    states = {
        "freeze5-nag-seed0": "finished",
        "freeze5-nag-seed1": "unfinished",
        "sweep": "2 runs",
        "advice": "finished",
    }
    assert table["state"].to_dict() == states


def test_a_finished_run_loads_and_predicts_what_it_did(old, images):
    run = xt.load_run(old / "runs" / "freeze5-nag-seed0")
    assert run.score() == pytest.approx(0.8333333)
    assert len(run.history) == 8
    logits = run.model.predict(images.load().astype(np.float32), verbose=0)
    assert list(np.array(run.class_names)[logits.argmax(axis=1)]) == list(run.predictions["predicted"])


def test_the_same_training_finds_the_finished_run(old, images):
    notes = []
    run = xt.train_model(images, BASE, freeze_through=5, runs_dir=old / "runs", notes=notes.append)
    assert run.path.name == "freeze5-nag-seed0"
    assert "finished already" in notes[0]


def test_an_interrupted_run_goes_on_from_its_epoch(old, images):
    folder = old / "runs" / "freeze5-nag-seed1"
    state, _ = Checkpoint(folder).load()
    run = xt.train_model(images, BASE, freeze_through=5, seed=1, runs_dir=old / "runs")
    assert run.path == folder
    assert len(run.history) == len(state["history"]) + 1 == 8
    assert list(run.history["seconds"][:7]) == [row["seconds"] for row in state["history"]]  # not trained again


def test_the_same_advice_is_found(old, images):
    notes = []
    options = {"runs_dir": old / "runs", "head_seeds": 1, "max_calls": 4000, "notes": notes.append}
    advice = xt.advise_freeze(images, BASE, method="heatmap", **options)
    assert advice.path == old / "runs" / "advice"
    assert "already" in notes[0]
    assert advice.freeze_through == 3


def test_a_sweep_loads_grows_and_checks_the_advice(old, images):
    folder = old / "runs" / "sweep"
    results = {file: file.stat().st_mtime_ns for file in folder.glob("*/result.json")}
    assert len(results) == 2
    table = xt.load_sweep(folder)
    assert table.best["name"] == "freeze5-nag"
    grid = {"freeze_through": (3, 5), "optimizers": "nag", "seeds": 2, "workers": 1, "learning_rates": None}
    grown = xt.sweep_freeze(
        images, train=xt.TrainConfig(**vars(BASE) | {"learning_rate": 0.3}), runs_dir=old / "runs", **grid
    )
    assert grown.path == folder
    assert len(grown.runs) == 4
    assert {file: file.stat().st_mtime_ns for file in results} == results  # none was trained again
    check = xt.check_advice(xt.load_advice(old / "runs" / "advice"), table)
    saved = json.loads((folder / "check.json").read_text())
    assert check.rival == saved["rival"]
    assert (saved["verdict"], check.verdict) == (
        "contradicted",
        "cannot tell",
    )  # since then, only reliable figures count
    assert check.difference.difference == pytest.approx(saved["difference"]["difference"])


@pytest.mark.parametrize("name", ["freeze5-nag-seed0", "sweep"])
def test_a_report_on_it(old, name):
    said = []
    page, _ = report_on(old / "runs" / name, old / "runs", said.append)
    assert page == old / "runs" / name / "report.html"
    assert "Grad-CAM" in page.read_text() or "gradcam" in page.read_text()  # with pictures
    assert not any(line.startswith("Without") for line in said)


def test_the_command_line_lists_and_checks_it(old):
    assert xaitune(old, "runs").status == 0
    answer = xaitune(old, "check-advice", "--json")
    assert answer.status == 0
    assert answer.json["verdict"] in ("contradicted", "cannot tell")
