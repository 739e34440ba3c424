"""Bad input: one or two lines that name it and say what to do, a fitting exit status, no traceback, nothing written."""

import errno
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from driving import alive, children, files, finish, start, xaitune
from PIL import Image

from xaitune import _files
from xaitune.data.dataset import ImageData
from xaitune.errors import RunError
from xaitune.models.backend import keras
from xaitune.models.weights import downloaded_file
from xaitune.training import stages

SMALL = ["--weights", "slim", "--head-epochs", "1", "--epochs", "1", "--precision", "float32"]


def refused(answer, status, *words):
    """An answer of one or two lines with all the words, and nothing that a user should not see."""
    assert answer.status == status, answer
    assert len(answer.error.splitlines()) <= 2, answer.error
    for word in words:
        assert word in answer.error, (word, answer.error)
    for noise in ("Traceback", "tensorflow", "TF_", "WARNING", "bug in xaitune"):
        assert noise not in answer.err, answer.err


def png_of(width, height):
    """A PNG whose header announces a size and whose pixels are missing."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.fixture
def place(tmp_path, demo, run):
    """A folder with a run, a xaitune.toml on the demo images, and files of every bad kind."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / run.path.name).symlink_to(run.path)
    (tmp_path / "images").symlink_to(demo.config.path)
    (tmp_path / "xaitune.toml").write_text(
        f'[data]\npath = "images"\ngroups = "{demo.config.groups}"\nimage_size = [32, 32]\n[train]\nweights = "slim"\n'
    )
    (tmp_path / "text.png").write_text("this is no picture\n" * 5)
    (tmp_path / "zero.png").write_bytes(b"")
    (tmp_path / "huge.png").write_bytes(png_of(30_000, 30_000))
    Image.new("RGB", (1, 1)).save(tmp_path / "one.png")
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.keras").write_text("no model")
    (tmp_path / "text.h5").write_text("no weights")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.png", ["No image at missing.png", "Check the path"]),
        ("text.png", ["text.png is not an image", "Known formats"]),
        ("zero.png", ["zero.png is empty (0 bytes)", "Copy it again"]),
        ("one.png", ["one.png is too small: 1 x 1", "at least 8"]),
        ("huge.png", ["huge.png is too large", "Scale it down"]),
        ("cut.jpg", ["cut.jpg is damaged or cut short", "Copy it again"]),
        ("empty", ["No images in empty", "Known suffixes"]),
    ],
)
@pytest.mark.parametrize("command", ["explain", "predict"])
def test_images(place, command, name, words):
    before = files(place)
    first = ["predict", "runs/freeze3-nag-seed0"] if command == "predict" else ["explain"]
    refused(xaitune(place, *first, name), 2, *words)
    assert files(place) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--class", "crak"], ["Unknown class 'crak'", "Did you mean 'crack'?", "blowhole"]),
        (["--block", "7"], ["block must be 1..5", "'7'"]),
        (["--block", "0"], ["block must be 1..5", "'0'"]),
        (["--block", "x"], ["block must be 1..5", "'x'"]),
        (["--method", "gradcm"], ["method must be one of gradcam, cam, lime", "Did you mean 'gradcam'?"]),
        (["--method", "cam", "--block", "3"], ["the last block only", "'3'"]),
        (["--method", "lime", "--block", "3"], ["LIME", "'3'"]),
        (["--rule", "layercan"], ["rule must be one of", "Did you mean 'layercam'?"]),
        (["--method", "lime", "--segmenter", "slick"], ["segmenter must be one of", "Did you mean 'slic'?"]),
        (["--method", "lime", "--num-samples", "1"], ["num_samples must be a whole number of at least 2", "1"]),
        (["--num-samples", "many"], ["--num-samples", "Received: many", "xaitune explain --help"]),
        (["--model", "text.keras"], ["text.keras is not a model file", "Give a finished run's folder"]),
        (["--model", "nowhere"], ["No model at nowhere. 'xaitune runs' lists the finished runs and sweeps."]),
        (["--model", "empty"], ["empty holds no run", "xaitune runs"]),
        (["--blok", "3"], ["No such option: --blok", "Did you mean --block? See"]),
    ],
)
def test_explain_options(place, arguments, words):
    before = files(place)
    refused(xaitune(place, "explain", "whole.jpg", *arguments), 2, *words)
    assert files(place) == before


def test_bad_options_of_explain_are_refused_before_a_model_is_loaded(place, monkeypatch):
    def slow(*_):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("xaitune.explain.classifier.load_model", slow)
    monkeypatch.setattr("xaitune.explain.classifier.load_model", slow)
    for arguments in (["--class", "crak"], ["--block", "7"], ["--method", "x"]):
        assert xaitune(place, "explain", "whole.jpg", *arguments).status == 2


def test_models_that_are_not_ours(place):
    inputs = keras.Input((32, 32, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    keras.Model(inputs, keras.layers.Dense(3)(pooled)).save(place / "other.keras")
    keras.Model(inputs, keras.layers.Dense(3, activation="tanh")(pooled)).save(place / "tanh.keras")
    keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)]).save(place / "rows.keras")
    before = files(place)
    for name, words in (
        ("tanh", ["tanh", "logits"]),
        ("rows", ["not an image classifier", "(None, 5)"]),
    ):
        refused(xaitune(place, "explain", "whole.jpg", "--model", f"{name}.keras"), 2, f"{name}.keras", *words)
    refused(xaitune(place, "train", "--weights", "other.keras"), 2, "other.keras", "not a model of xaitune's")
    assert files(place) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], ["No image folder at", "nowhere", "Check the path"]),
        (["empty"], ["No images in the class folders of", "empty", "Expected"]),
        (["whole.jpg"], ["whole.jpg is a file", "folder of class folders"]),
        (["nothing.csv"], ["No CSV at", "nothing.csv"]),
        (["--freeze-through", "7"], ["freeze_through must be 0..5", "7"]),
        (["--freeze-through", "1-3"], ["freeze_through must be one of 0..5", "1-3"]),
        (["--optimizer", "nagg"], ["optimizer must be one of", "Did you mean 'nag'?"]),
        (["--image-size", "5"], ["image_size must be HEIGHTxWIDTH", "'5'"]),
        (["--split", "a,b,c"], ["split must be three shares", "a,b,c"]),
        (["--split", "0.5,0.5"], ["split must be three shares", "'0.5,0.5'"]),
        (["--learning-rate", "-1"], ["learning_rate must be above 0", "-1"]),
        (["--learning-rate", "fast"], ["learning_rate must be above 0", "Received: learning_rate='fast'"]),
        (["--batch-size=0"], ["batch_size must be", "0"]),
        (["--seed", "x"], ["--seed", "Received: x"]),
        (["--freeze-trough", "3"], ["No such option: --freeze-trough", "Did you mean --freeze-through?"]),
        (["--weights", "nothing.h5"], ["No weights at", "nothing.h5", "--weights PATH"]),
        (["--weights", "text.h5"], ["text.h5 is not a readable .h5", "--weights PATH"]),
        (
            ["--architecture", "lenet5-tanh", "--freeze-through", "3"],
            ["--freeze-through has no meaning", "lenet5-tanh"],
        ),
        (["--weights", "text.keras"], ["text.keras is not a model file", "--weights PATH"]),
        (["--weights", "empty"], ["empty is a folder without model.keras"]),
        (["--config", "nothing.toml"], ["No configuration at nothing.toml", "xaitune init"]),
        (["--config", "runs/nothing.json"], ["No configuration at runs/nothing.json", "config.json"]),
        (["--config", "images"], ["Cannot read images"]),
        (["--groups", "nothing.csv"], ["No CSV at", "nothing.csv"]),
        (["--groups", "part("], ["regular expression", "'part('"]),
        (["--masks", "nothing"], ["No mask folder at", "nothing"]),
        (["--name", "../up"], ["name must be", "'../up'"]),
        (["images", "more"], ["unexpected extra argument", "more", "xaitune train --help"]),
    ],
)
def test_train_options(place, arguments, words):
    before = files(place)
    answer = xaitune(place, "train", *arguments)
    refused(answer, 2, *words)
    assert files(place) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["No such command 'trian'", "Did you mean 'train'"]),
        (["sweep-frezee"], ["No such command", "Did you mean 'sweep-freeze'?"]),
        (["--jsn"], ["No such option: --jsn"]),
        (["explain"], ["Missing argument", "IMAGES", "xaitune explain --help"]),
        (["sweep-freeze", "--seeds", "0"], ["seeds must be", "0"]),
        (["sweep-freeze", "--optimizers", "sgd,nagg"], ["optimizers must be one of", "Did you mean 'nag'?"]),
        (["sweep-freeze", "--freeze-through", "1-9"], ["freeze_through must be", "'1-9'"]),
        (["sweep-freeze", "--engine", "slurm"], ["engine must be", "'slurm'"]),
        (["sweep-freeze", "--workers", "0"], ["workers must be", "0"]),
        (["advise", "--method", "heatmap", "--max-calls", "5"], ["max_calls must be at least", "5"]),
        (["advise", "--max-calls", "5000"], ["max_calls limits the method heatmap alone", "features"]),
        (["advise", "--method", "guess"], ["method must be one of features, race, heatmap"]),
        (["advise", "--model", "text.keras"], ["text.keras is not a model file"]),
        (["check-advice"], ["No sweep in runs", "xaitune sweep-freeze"]),
        (["check-advice", "runs/freeze3-nag-seed0"], ["No sweep in runs/freeze3-nag-seed0"]),
        (["report", "empty"], ["empty holds no run", "xaitune runs"]),
        (["predict", "empty", "whole.jpg"], ["empty holds no run", "xaitune runs"]),
        (["predict", "text.keras", "whole.jpg"], ["text.keras is not a model file"]),
        (["init", "images"], ["xaitune.toml exists already", "--overwrite"]),
        (["init", "image"], ["No image folder or CSV at image"]),  # said first: the file may be that of the right path
        (["init"], ["Missing argument", "DATA"]),
    ],
)
def test_other_commands(place, arguments, words):
    before = files(place)
    refused(xaitune(place, *arguments), 2, *words)
    assert files(place) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["init", "images", "--overwrite", "--weights", "none.h5"], ["No weights at 'none.h5'"]),
        (["train", "--name", "a/b"], ["name must be", "'a/b'"]),
        (["train", "--weights", "none.h5"], ["No weights at 'none.h5'"]),
        (["train", "--tensorboard"], ["--tensorboard needs the package tensorboard"]),
        (["advise", "--name", "a/b"], ["name must be", "'a/b'"]),
        (["collect", "--name", "a/b"], ["name must be", "'a/b'"]),
        (["advise", "--method", "guess"], ["method must be one of features, race, heatmap", "'guess'"]),
        (["sweep-freeze", "--name", "a/b", "--dry-run"], ["name must be", "'a/b'"]),
        (["sweep-freeze", "--run-gpus", "1"], ["run_gpus must be left out unless engine is ray"]),
        (["sweep-freeze", "--mlflow", "local"], ["--mlflow needs the package mlflow"]),
        (["compare", "--run-gpus", "1"], ["run_gpus must be left out unless engine is ray"]),
        (["compare", "--factor", "warmup_epochs", "--values", "0,90"], ["warmup_epochs must be fewer than"]),
    ],
)
def test_what_needs_no_image_is_refused_before_any_is_read(place, monkeypatch, arguments, words):
    def read(config):
        raise AssertionError("the images were read")

    monkeypatch.setattr(ImageData, "from_config", read)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # as if no package were installed
    refused(xaitune(place, *arguments), 2, *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[train]\nfreeze_trough = 3\n", ["[train]", "'freeze_trough'", "Did you mean 'freeze_through'?"]),
        ("[trian]\nepochs = 3\n", ["'trian'", "Did you mean 'train'?"]),
        ("epochs = 3\n", ["'epochs'", "data, train, sweep"]),
        ("[data\n", ["not valid TOML"]),
        ('[train]\nepochs = "many"\n', ["[train]", "epochs must be", "'many'"]),
        ("[train]\nfreeze_through = 7\n", ["freeze_through must be", "7"]),
        ("[data]\npath = 5\n", ["path must be text", "5"]),
        ('[data]\nimage_size = "big"\n', ["image_size must be", "'big'"]),
        ('[data]\nsplit = ["a", "b"]\n', ["split must be", "('a', 'b')"]),
        ("[sweep]\noptimizers = 3\n", ["optimizers must be", "3"]),
        ("[train]\nmetric = ['f1']\n", ["metric must be one of", "f1"]),
    ],
)
def test_xaitune_toml(place, text, words):
    (place / "xaitune.toml").write_text(text)
    before = files(place)
    refused(xaitune(place, "train", "images"), 2, "xaitune.toml", *words)
    assert files(place) == before


def test_no_data_named(tmp_path):
    refused(xaitune(tmp_path, "train"), 2, "No image folder", "xaitune init DATA")
    assert files(tmp_path) == {}


def test_imagenet_without_a_network(place, monkeypatch):
    def fail(*args, **options):
        raise Exception(
            "URL fetch failure on https://example.org/vgg16.h5: None -- [Errno -2] Name or service not known"
        )

    monkeypatch.setattr(keras.applications, "VGG16", fail)
    before = files(place)
    answer = xaitune(place, "train", "--weights", "imagenet")
    refused(answer, 2, "could not be downloaded", "[Errno -2]", "'slim'", "--weights PATH")
    assert "copy vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5 to" in answer.error
    assert str(downloaded_file("vgg16").parent) in answer.error
    answer = xaitune(place, "explain", "whole.jpg", "--runs-dir", "empty")
    refused(answer, 2, "could not be downloaded", "Train a model first", "--model")
    assert files(place) == before


def test_the_error_is_the_object_of_json(place):
    answer = xaitune(place, "explain", "missing.png", "--json")
    assert answer.json == {"error": answer.error.removeprefix("Error: "), "exit_status": 2}


def test_few_unreadable_images_are_skipped_and_many_refused(place, demo):
    for name in ("text.png", "cut.jpg"):
        shutil.copy(place / name, place / "empty" / name)
    for i, path in enumerate(demo.paths()[:6]):
        shutil.copy(path, place / "empty" / f"{i}.png")
    answer = xaitune(place, "predict", "runs/freeze3-nag-seed0", "empty", "--json")
    assert answer.status == 0
    assert len(answer.json["predictions"]) == 6
    assert answer.err.count("Skipped: ") == 2
    for i in range(4):
        shutil.copy(place / "zero.png", place / "empty" / f"zero{i}.png")
    refused(xaitune(place, "predict", "runs/freeze3-nag-seed0", "empty"), 2, "(6 of 12 images cannot be used.)")


def test_data_check_lists_damage_and_goes_on(tmp_path, demo):
    shutil.copytree(demo.config.path, tmp_path / "images")
    (tmp_path / "images/crack/bad.png").write_text("no picture")
    answer = xaitune(tmp_path, "data-check", "images", "--groups", "(part.*)_scan|(bad)", "--image-size", "32x32")
    assert "bad.png" in answer.err
    data = ImageData.from_folder(tmp_path / "images")
    assert [name for name, _ in data.skipped] == ["crack/bad.png"]


def test_meaningless_training_exits_2_with_the_check_written(tmp_path, demo):
    shutil.copytree(Path(demo.config.path) / "crack", tmp_path / "images/crack")
    answer = xaitune(tmp_path, "data-check", "images", "--json")
    refused(answer, 2, "Training would be meaningless")
    assert answer.json["ok"] is False
    assert (tmp_path / "runs/data-check/problems.csv").is_file()
    refused(xaitune(tmp_path, "train", "images", *SMALL), 2, "meaningless")
    assert not list((tmp_path / "runs").glob("freeze*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", *SMALL, "--runs-dir", "whole.jpg/runs"],
        ["advise", *SMALL[:6], "--runs-dir", "whole.jpg/runs"],
        ["sweep-freeze", *SMALL, "--runs-dir", "whole.jpg/runs"],
        ["data-check", "--runs-dir", "whole.jpg/runs"],
        ["explain", "whole.jpg", "--out", "whole.jpg/out"],
        ["predict", "runs/freeze3-nag-seed0", "whole.jpg", "--csv", "whole.jpg/out.csv"],
        ["demo", "--folder", "whole.jpg"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_folders_that_cannot_be_written(place, arguments):
    before = files(place)
    refused(xaitune(place, *arguments), 1, "whole.jpg")
    assert files(place) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(place):
    (place / "closed").mkdir(mode=0o500)
    refused(xaitune(place, "train", *SMALL, "--runs-dir", "closed/runs"), 1, "No permission", "--runs-dir")


def test_no_permission_by_the_system_call(place, monkeypatch):
    def refuse(self, *args, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    refused(xaitune(place, "train", *SMALL, "--runs-dir", "closed"), 1, "No permission to write closed", "--runs-dir")


def test_full_disk(place, monkeypatch):
    """The disk fills up while a checkpoint is written: said, nothing half-written, and the same call goes on."""
    real, full = os.replace, True

    def replace(source, target):
        if full and "checkpoint" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(_files.os, "replace", replace)
    monkeypatch.setattr(stages, "SAVE_SECONDS", 0.0)  # a checkpoint after each epoch, however short
    command = ["train", *SMALL, "--runs-dir", "full"]
    refused(xaitune(place, *command), 1, "The disk is full", "state.npz", "same command again")
    kept = files(place / "full")
    assert not any("result.json" in name or "state" in name for name in kept)
    full = False
    assert xaitune(place, *command).status == 0


def test_writing_leaves_no_part_behind(tmp_path):
    def write(error):
        with _files.writing(tmp_path / "a.json") as part:
            part.write_text("half")
            raise error

    with pytest.raises(RunError, match="disk is full"):
        write(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(KeyboardInterrupt):
        write(KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(place):
    done = subprocess.run(
        [sys.executable, "-m", "xaitune", "explain", "missing.png", "--debug"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_an_error_that_nobody_foresaw(place, monkeypatch):
    def burst(*_):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("xaitune.report.gather.list_runs", burst)
    answer = xaitune(place, "runs")
    assert answer.status == 1
    assert (
        answer.error
        == "Error: ZeroDivisionError: division by zero\nThis is a bug in xaitune: --debug shows where it happened."
    )


def wait_for(condition, seconds=120):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_in_a_sweep(place, number, status):
    """Ctrl-C and kill: the line how to go on, the signal's status, and no worker is left."""
    grid = ["--freeze-through", "1", "--optimizers", "sgd,nag", "--seeds", "1", "--workers", "2"]
    long = ["--weights", "slim", "--head-epochs", "1", "--epochs", "200", "--patience", "200"]
    process = start(place, "sweep-freeze", *long, *grid)
    try:
        wait_for(lambda: len(list((place / "runs").glob("sweep/freeze*/config.json"))) == 2)  # both workers train
        workers = children(process.pid)
        assert workers
        began = time.monotonic()
        process.send_signal(number)
        answer = finish(process, timeout=30)
    finally:
        process.kill()
    refused(answer, status, "Interrupted", "same command again")
    assert time.monotonic() - began < 20
    assert not any(alive(pid) for pid in workers)
    assert not list((place / "runs").glob("sweep/freeze*/result.json"))
    (state,) = (run["state"] for run in xaitune(place, "runs", "--json").json["runs"] if run["kind"] == "sweep")
    assert re.fullmatch("[012] of 4 runs", state)  # at most the linear heads
