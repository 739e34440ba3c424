"""train.py, fit.py, head.py, folder.py and run.py: the same result in every way of training, and what a run folder holds."""

import dataclasses
import errno
import gc
import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn import metrics as sk

from xaitune import _files
from xaitune.config.choices import OPTIMIZERS
from xaitune.config.fields import later_defaults
from xaitune.config.settings import TrainConfig
from xaitune.errors import ConfigError, DataError, RunError, RunLockedError
from xaitune.models.backend import keras
from xaitune.models.blocks import convolutions, freeze_blocks
from xaitune.models.vgg import build_vgg16
from xaitune.training import folder as runs
from xaitune.training import stages, targets
from xaitune.training import train as training
from xaitune.training.checkpoint import Checkpoint
from xaitune.training.fit import Fit
from xaitune.training.folder import find_runs
from xaitune.training.head import head_rate
from xaitune.training.network import CLIP_NORM, Part
from xaitune.training.run import load_run
from xaitune.training.train import train_model

LATER = later_defaults(TrainConfig)
BASE = TrainConfig(weights="slim", head_epochs=1, epochs=2, precision="float32", freeze_through=4)


@pytest.fixture(autouse=True)
def checkpoint_after_each_epoch(monkeypatch):
    """However short the epochs are."""
    monkeypatch.setattr(stages, "SAVE_SECONDS", 0.0)


@pytest.fixture(scope="module")
def base(demo, tmp_path_factory):
    """BASE, trained without interruption in a separate folder."""
    return train_model(demo, BASE, runs_dir=tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of features and heads for the tests that are not about them."""
    return tmp_path_factory.mktemp("cache")


def probabilities(run):
    return run.predictions[[f"p({name})" for name in run.class_names]].to_numpy()


def assert_same(a, b):
    """Bit for bit: every figure of the history except the seconds, and every probability."""
    pd.testing.assert_frame_equal(
        a.history.drop(columns="seconds"), b.history.drop(columns="seconds"), check_exact=True
    )
    pd.testing.assert_frame_equal(a.predictions, b.predictions, check_exact=True)
    assert a.metrics == b.metrics


def die_at(text):
    def progress(done, total, what):
        if text in what:
            raise KeyboardInterrupt

    return progress


def never(*args):
    raise AssertionError(f"trained again: {args}")


def test_what_a_run_holds(run, demo):
    assert run.name == "freeze3-nag-seed0"
    assert run.state == "finished"
    assert run.history["stage"].tolist() == ["head"] * 2 + ["fine-tune"] * 2
    assert run.history["epoch"].tolist() == [1, 2, 1, 2]
    assert run.history["train_loss"].iloc[-1] < run.history["train_loss"].iloc[0]  # it learns
    assert run.predictions["file"].tolist() == list(demo.files)
    assert run.predictions["true"].tolist() == [demo.class_names[i] for i in demo.labels]
    assert sorted(p.name for p in run.path.iterdir() if p.name != ".lock") == [
        "config.json",
        "history.csv",
        "metadata.json",
        "model-card.md",
        "model.keras",
        "predictions.csv",
        "result.json",
    ]
    about = run.metadata
    assert about["fingerprint"] == demo.fingerprint
    assert about["precision"] == "float32"
    assert about["precision_reason"] == "as asked"
    assert about["versions"]["keras"] == keras.__version__


@pytest.mark.parametrize("through", [0, 3, 5])
def test_frozen_blocks_keep_their_weights_and_others_change(demo, tmp_path, cache, through):
    # At a rate that improves the score, since the head alone is a candidate too.
    config = dataclasses.replace(BASE, freeze_through=through, optimizer="adam", learning_rate=1e-3, epochs=3)
    model = train_model(demo, config, runs_dir=tmp_path, cache_dir=cache).model
    start = build_vgg16(11, image_size=(32, 32), weights="slim")
    for block, names in convolutions().items():
        for name in names:
            equal = [
                np.array_equal(a, b)
                for a, b in zip(model.get_layer(name).get_weights(), start.get_layer(name).get_weights(), strict=True)
            ]
            assert equal == [block <= through] * 2, name
    assert not np.array_equal(model.get_layer("logits").kernel, start.get_layer("logits").kernel)


@pytest.mark.parametrize("through", [2, 5])
def test_cached_features_change_nothing_beyond_rounding(demo, tmp_path, through):
    config = dataclasses.replace(BASE, freeze_through=through, epochs=1)
    cached = train_model(demo, config, runs_dir=tmp_path / "cached")
    computed = train_model(demo, config, runs_dir=tmp_path / "computed", cache_gb=0.0)
    assert list((tmp_path / "cached").rglob("*.bin"))
    assert not list((tmp_path / "computed").rglob("*.bin"))
    np.testing.assert_allclose(probabilities(cached), probabilities(computed), atol=1e-4)
    for column in ("train_loss", "val_loss"):
        np.testing.assert_allclose(cached.history[column], computed.history[column], atol=1e-4)


def test_a_seed_determines_everything_and_another_changes_it(demo, tmp_path, base):
    assert_same(base, train_model(demo, BASE, runs_dir=tmp_path))
    other = train_model(demo, BASE, seed=1, runs_dir=tmp_path)
    assert other.name == "freeze4-nag-seed1"
    assert np.abs(probabilities(other) - probabilities(base)).max() > 1e-4
    assert (
        other.predictions["split"].tolist() == base.predictions["split"].tolist()
    )  # the split does not depend on the seed


def test_a_shared_head_is_the_one_that_each_run_would_train(demo, tmp_path, base):
    """Cells of one sweep share the head of stage (a); a cell has the same result alone and after another."""
    train_model(demo, BASE, freeze_through=5, optimizer="sgd", epochs=1, runs_dir=tmp_path)
    heads = list(tmp_path.rglob("head-*.npz"))
    assert len(heads) == 1
    assert_same(train_model(demo, BASE, runs_dir=tmp_path), base)
    assert list(tmp_path.rglob("head-*.npz")) == heads


def test_the_model_loaded_in_plain_keras_gives_the_predictions(run, demo):
    model = keras.models.load_model(run.path / "model.keras", safe_mode=True)
    logits = model.predict(demo.load().astype(np.float32), verbose=0)
    np.testing.assert_allclose(softmax(logits.astype(np.float64), axis=1), probabilities(run), atol=1e-5)
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    predicted = [run.class_names[i] for i in logits.argmax(axis=1)]
    assert predicted == run.predictions["predicted"].tolist()


def test_bfloat16_saves_a_plain_float32_model(demo, tmp_path):
    run = train_model(demo, BASE, precision="bfloat16", runs_dir=tmp_path)
    model = run.model
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    logits = model.predict(demo.load().astype(np.float32), verbose=0)
    np.testing.assert_allclose(softmax(logits.astype(np.float64), axis=1), probabilities(run), atol=0.05)
    assert run.metadata["precision"] == "bfloat16"


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_metrics_equal_scikit_learn(run, split):
    rows = run.predictions[run.predictions["split"] == split]
    true, predicted, metrics = rows["true"], rows["predicted"], run.metrics[split]
    names = list(run.class_names)
    for average in ("macro", "weighted", "micro"):
        expected = sk.f1_score(true, predicted, labels=names, average=average, zero_division=0)
        assert metrics[f"f1_{average}"] == pytest.approx(expected, abs=1e-12)
    assert metrics["accuracy"] == pytest.approx(sk.accuracy_score(true, predicted))
    assert metrics["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(true, predicted))
    assert metrics["confusion"] == sk.confusion_matrix(true, predicted, labels=names).tolist()
    p = rows[[f"p({name})" for name in names]].to_numpy()
    assert metrics["loss"] == pytest.approx(sk.log_loss(true, p, labels=names), rel=1e-6)
    precision, recall, f1, support = sk.precision_recall_fscore_support(true, predicted, labels=names, zero_division=0)
    table = run.per_class(split)
    for column, values in (("precision", precision), ("recall", recall), ("f1", f1), ("support", support)):
        np.testing.assert_allclose(table[column].astype(float), values, atol=1e-12)
    assert run.score(split) == metrics["f1_macro"]


def test_the_model_is_that_of_the_best_epoch_on_validation(run):
    """The weights of the best fine-tuning epoch in the history are those that predict."""
    fine = run.history[run.history["stage"] == "fine-tune"]
    assert fine["val_f1_macro"].max() == pytest.approx(run.metrics["validation"]["f1_macro"], abs=1e-9)


def test_patience_ends_a_run_and_the_best_weights_are_restored(demo, tmp_path, cache):
    options = {"learning_rate": 1e-9, "epochs": 6, "patience": 2, "freeze_through": 5}
    run = train_model(demo, BASE, runs_dir=tmp_path, cache_dir=cache, **options)
    fine = run.history[run.history["stage"] == "fine-tune"]
    assert len(fine) == 2  # neither is better than the head alone
    np.testing.assert_allclose(fine["val_loss"], fine["val_loss"].iloc[0], atol=1e-5)


def test_test_labels_influence_no_choice(demo, tmp_path, base):
    rows = demo.indices("test")
    labels = demo.labels.copy()
    labels[rows] = np.random.default_rng(0).permutation(labels[rows][::-1])
    assert not np.array_equal(labels, demo.labels)
    shuffled = train_model(dataclasses.replace(demo, labels=labels), BASE, runs_dir=tmp_path)
    np.testing.assert_array_equal(probabilities(shuffled), probabilities(base))
    assert shuffled.metrics["validation"] == base.metrics["validation"]
    assert shuffled.metrics["test"] != base.metrics["test"]


@pytest.mark.parametrize(
    ("options", "stops"),
    [
        ({"epochs": 2, "optimizer": "adam"}, ["head 1/1", "fine-tune 1/2"]),
        ({"head": "fc", "freeze_through": 5}, ["fine-tune 1/2"]),
        ({"freeze_through": 5, "epochs": 1, "final_epochs": 2}, ["fine-tune 1/1", "final 1/2"]),
        (
            {"freeze_through": 3, "epochs": 3, "schedule": "cosine", "warmup_epochs": 1, "block_rates": "4=0.5,head=2"},
            ["fine-tune 1/3", "fine-tune 2/3"],
        ),
        ({"freeze_through": 5, "epochs": 5, "schedule": "plateau", "learning_rate": 1e-9}, ["fine-tune 3/5"]),
    ],
)
def test_a_killed_run_resumes_to_the_same_result(demo, tmp_path, options, stops):
    """Killed once or twice, it ends as one that was never interrupted, and trains no epoch again."""
    whole = train_model(demo, BASE, runs_dir=tmp_path / "whole", **options)
    folder, reports = tmp_path / "killed", []
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            train_model(demo, BASE, runs_dir=folder, progress=die_at(stop), **options)
        assert not (folder / whole.name / "result.json").exists()
        with pytest.raises(RunError, match="is not finished: run the same command again"):
            load_run(folder / whole.name)
    resumed = train_model(demo, BASE, runs_dir=folder, progress=lambda *a: reports.append(a[2]), **options)
    assert_same(whole, resumed)
    assert not any(stops[-1] in what or "head" in what for what in reports)
    assert not (resumed.path / "checkpoint").exists()


def test_a_damaged_checkpoint_is_ignored(demo, tmp_path, base):
    with pytest.raises(KeyboardInterrupt):
        train_model(demo, BASE, runs_dir=tmp_path, progress=die_at("fine-tune 1"))
    file = tmp_path / base.name / "checkpoint" / "state.npz"
    for damage in (b"", b"PK", file.read_bytes()[: file.stat().st_size // 2]):
        assert Checkpoint(file.parents[1]).load() is not None or file.stat().st_size < 10
        file.write_bytes(damage)
        assert Checkpoint(file.parents[1]).load() is None
    assert_same(base, train_model(demo, BASE, runs_dir=tmp_path))


@pytest.mark.parametrize("place", ["the loss", "a prediction"])
def test_a_diverged_run_is_recorded_and_not_retried(demo, tmp_path, cache, monkeypatch, place):
    if place == "the loss":
        options = {"learning_rate": 10.0, "optimizer": "adam", "freeze_through": 0, "epochs": 8}
    else:  # finite on the validation images, NaN on others
        real = targets.logits_of
        options = {"epochs": 1, "freeze_through": 5}
        monkeypatch.setattr(targets, "logits_of", lambda *a: real(*a) + (np.nan if len(a[2]) == len(demo) else 0.0))
    run = train_model(demo, BASE, runs_dir=tmp_path, cache_dir=cache, **options)
    assert run.state == "diverged"
    last = run.history["train_loss"].iloc[-1] + run.history["val_loss"].iloc[-1]
    assert np.isfinite(last) == (place == "a prediction")
    assert len(run.history) < 9
    assert not (run.path / "model.keras").exists()
    assert np.isnan(run.score())
    monkeypatch.setattr(training, "Training", never)
    notes = []
    again = train_model(demo, BASE, runs_dir=tmp_path, notes=notes.append, **options)
    assert again.state == "diverged"
    assert "it is not trained again" in notes[0]
    assert find_runs(tmp_path) == []  # there is nothing to explain or report


def test_the_same_configuration_finds_the_finished_run(demo, base, monkeypatch):
    first, folder = base, base.path.parent
    monkeypatch.setattr(training, "Training", never)
    notes = []
    again = train_model(demo, BASE, runs_dir=folder, notes=notes.append)
    assert notes == [f"{first.path} is finished already; it is not trained again."]
    assert_same(first, again)
    # The optimizer's own rate and the same rate given explicitly are one configuration; so is another precision.
    train_model(demo, BASE, runs_dir=folder, learning_rate=OPTIMIZERS["nag"][2], precision="bfloat16")
    assert find_runs(folder) == [first.path]


def test_another_configuration_gets_its_own_folder(demo, tmp_path, cache):
    quick = dataclasses.replace(BASE, freeze_through=5, epochs=1)
    train_model(demo, quick, runs_dir=tmp_path, cache_dir=cache)
    notes = []
    other = train_model(demo, quick, patience=2, runs_dir=tmp_path, cache_dir=cache, notes=notes.append)
    assert other.name == "freeze5-nag-seed0-2"
    assert notes == [
        "freeze5-nag-seed0 has another configuration (patience 5 -> 2), so this one is freeze5-nag-seed0-2."
    ]
    third = train_model(demo, quick, patience=3, runs_dir=tmp_path, cache_dir=cache)
    assert third.name == "freeze5-nag-seed0-3"
    again = train_model(demo, quick, patience=2, runs_dir=tmp_path)
    assert again.name == "freeze5-nag-seed0-2"


def test_an_explicit_name_is_refused_with_the_difference(demo, tmp_path, cache):
    quick = dataclasses.replace(BASE, freeze_through=5, epochs=1)
    first = train_model(demo, quick, name="mine", runs_dir=tmp_path, cache_dir=cache)
    before = {p.name: p.read_bytes() for p in first.path.iterdir() if p.is_file()}
    with pytest.raises(RunError, match=r"mine holds another configuration \(seed 0 -> 4\)\. Choose another --name, or"):
        train_model(demo, quick, seed=4, name="mine", runs_dir=tmp_path, cache_dir=cache)
    assert {p.name: p.read_bytes() for p in first.path.iterdir() if p.is_file()} == before
    (first.path / "old.txt").write_text("x")
    again = train_model(demo, quick, seed=4, name="mine", runs_dir=tmp_path, cache_dir=cache, overwrite=True)
    assert again.path == first.path
    assert again.config.seed == 4
    assert not (first.path / "old.txt").exists()
    assert np.abs(probabilities(again) - probabilities(first)).max() > 1e-4


def test_a_second_process_in_a_folder_is_refused(demo, tmp_path):
    folder = tmp_path / "freeze4-nag-seed0"
    with (
        runs.locked(folder),
        pytest.raises(RunLockedError, match=r"Another process is working in .*freeze4-nag-seed0\. Wait for it"),
    ):
        train_model(demo, BASE, runs_dir=tmp_path)
    assert [p.name for p in folder.iterdir()] == [".lock"]  # nothing was written
    with runs.locked(folder):  # it is free again once the first lock is released
        pass


def full(real, after=0):
    """A writer that writes a part of a file and then finds the disk full; the first `after` calls work."""
    calls = []

    def write(file, *args, **arrays):
        calls.append(1)
        if len(calls) <= after:
            return real(file, *args, **arrays)
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    return write


@pytest.mark.parametrize("after", [0, 2])
def test_a_full_disk(demo, tmp_path, monkeypatch, base, after):
    """While the head's file or the second checkpoint is written: one clear error, no partial file, nothing lost."""
    folder = tmp_path / "full"
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full(np.savez, after))
        with pytest.raises(RunError) as excinfo:
            train_model(demo, BASE, runs_dir=folder)
    assert str(excinfo.value).startswith("The disk is full: ")
    assert str(excinfo.value).endswith("could not be written. Free some space and run the same command again.")
    assert excinfo.value.exit_status == 1
    names = [p.name for p in folder.rglob("*") if p.is_file()]
    assert not [n for n in names if n.startswith(".") and n.split(".")[1].isdigit()]
    assert len([n for n in names if n.startswith("head-") and n.endswith(".npz")]) == min(after, 1)
    assert_same(base, train_model(demo, BASE, runs_dir=folder))


def test_a_full_disk_when_the_model_is_saved(demo, tmp_path, base, monkeypatch):
    def save(self, path, **_):
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "save", save)
        with pytest.raises(RunError, match=r"The disk is full: .*model\.keras"):
            train_model(demo, BASE, runs_dir=tmp_path)
    folder = tmp_path / "freeze4-nag-seed0"
    assert not (folder / "result.json").exists()
    assert not list(folder.glob("*.keras"))
    assert not list(folder.glob(".*.keras"))
    assert_same(base, train_model(demo, BASE, runs_dir=tmp_path))


def test_no_permission_to_write(demo, tmp_path):
    (tmp_path / "runs").write_text("a file, not a folder")
    with pytest.raises(RunError, match="could not be written"):
        train_model(demo, BASE, runs_dir=tmp_path / "runs")
    error = _files.disk_error(PermissionError(errno.EACCES, "Permission denied"), tmp_path)
    assert str(error).startswith(f"No permission to write {tmp_path}. Choose another folder")
    assert "--runs-dir" in str(error)


def test_invalid_calls_write_nothing(demo, tmp_path):
    with pytest.raises(ConfigError, match=r"Unknown option 'epoch' for TrainConfig\. Did you mean 'epochs'"):
        train_model(demo, BASE, epoch=3, runs_dir=tmp_path / "runs")
    one = dataclasses.replace(demo, labels=np.zeros(len(demo), int), class_names=("crack",))
    with pytest.raises(DataError, match="would be meaningless"):
        train_model(one, BASE, runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_damaged_run_folders(run, tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        load_run(tmp_path)
    for name in ("config.json", "result.json", "metadata.json", "history.csv"):
        folder = tmp_path / name
        folder.mkdir()
        for file in run.path.iterdir():
            if file.name != "model.keras":
                (folder / file.name).write_bytes(file.read_bytes())
        assert load_run(folder).metrics == run.metrics
        (folder / name).write_bytes(b"")
        with pytest.raises(RunError, match=r"is missing or damaged|is damaged|is not finished"):
            load_run(folder)


def test_balanced_class_weights_are_those_of_scikit_learn(demo, tmp_path):
    """'balanced': n / (number of classes * count of the image's class)."""
    inputs = np.zeros((len(demo), 4), np.float32)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(11)])
    config = dataclasses.replace(BASE, class_weight="balanced")
    fit = Fit(Part(model), inputs, demo, config, "head", "adam", 1e-3)
    from sklearn.utils.class_weight import compute_sample_weight

    rows = demo.indices("train")
    np.testing.assert_allclose(
        fit.targets.weights[rows], compute_sample_weight("balanced", demo.labels[rows]), rtol=1e-6
    )


def test_class_weights_by_share_and_by_name(demo):
    """'share': 1 - the class's share of the training images; named ones as given, 1 for the others."""
    from xaitune.errors import ConfigError
    from xaitune.training.targets import image_weights

    rows = demo.indices("train")
    share = np.bincount(demo.labels[rows], minlength=len(demo.class_names)) / len(rows)
    weights = image_weights(demo, dataclasses.replace(BASE, class_weight="share"))
    np.testing.assert_allclose(weights, 1 - share[demo.labels], rtol=1e-6)
    named = dataclasses.replace(BASE, class_weight={"crack": 3, "burst": 0.5})
    assert named.class_weight == "crack=3,burst=0.5"
    expected = {"crack": 3.0, "burst": 0.5}
    names = [demo.class_names[label] for label in demo.labels]
    np.testing.assert_allclose(image_weights(demo, named), [expected.get(name, 1.0) for name in names])
    with pytest.raises(ConfigError, match=r"class_weight must be classes of the data .* Received: cracks"):
        train_model(demo, dataclasses.replace(BASE, class_weight="cracks=2"))


def test_the_history_has_the_rate_of_each_epoch(demo, tmp_path, cache):
    options = {"freeze_through": 5, "learning_rate": 1e-9}
    run = train_model(demo, BASE, runs_dir=tmp_path, cache_dir=cache, epochs=6, schedule="plateau", **options)
    fine = run.history[run.history["stage"] == "fine-tune"]
    # No epoch is better than the head alone. The rate is cut after the second and fourth; the fifth is the last.
    np.testing.assert_allclose(fine["learning_rate"], [1e-9, 1e-9, 3e-10, 3e-10, 9e-11], rtol=1e-12)
    steps = -(-len(demo.indices("train")) // 32)
    options |= {"epochs": 2, "warmup_epochs": 1, "schedule": "cosine", "final_epochs": 1, "patience": 9}
    run = train_model(demo, BASE, runs_dir=tmp_path, cache_dir=cache, **options)
    warm = 1e-9 * (steps + 1) / 2 / steps  # the mean over the steps
    cosine = np.mean([0.5e-9 * (1 + np.cos(np.pi * t / steps)) for t in range(steps)])
    rates = run.history.loc[run.history["stage"] != "head", "learning_rate"]
    np.testing.assert_allclose(rates, [warm, cosine, 1e-11], rtol=1e-9)


def test_a_multiplier_below_1_changes_a_block_less(demo):
    """One step of SGD: the change of a block is multiplied, also if the whole gradient was clipped."""
    changes = {}
    for rates in (None, "4=0.25"):
        model = build_vgg16(11, image_size=(32, 32), weights="slim")
        freeze_blocks(model, 3)
        before = {layer.name: layer.get_weights() for layer in model.layers}
        config = dataclasses.replace(BASE, block_rates=rates, batch_size=len(demo))
        Fit(Part(model), demo.load(), demo, config, "fine-tune", "sgd", 0.5).epoch(0)
        changes[rates] = {n: model.get_layer(n).get_weights()[0] - w[0] for n, w in before.items() if w}
    scale = np.abs(changes[None]["block4_conv2"]).max()
    np.testing.assert_allclose(changes["4=0.25"]["block4_conv2"], changes[None]["block4_conv2"] / 4, atol=2e-3 * scale)
    np.testing.assert_allclose(changes["4=0.25"]["logits"], changes[None]["logits"], rtol=1e-3, atol=1e-7)
    assert not changes["4=0.25"]["block3_conv1"].any()


def test_later_fields_do_not_change_old_identities(base, demo):
    identity = _files.read_json(base.path / "config.json")["identity"]
    assert not set(LATER) & set(identity)
    new = runs.run_identity(dataclasses.replace(BASE, label_smoothing=0.1), demo.config, demo.fingerprint, "w")
    assert new["label_smoothing"] == 0.1
    old = runs.run_identity(BASE, demo.config, demo.fingerprint, "w")
    assert runs.identity_difference(old, new) == "label_smoothing 0.0 -> 0.1"
    assert runs.identity_difference(new, old) == "label_smoothing 0.1 -> 0.0"
    written = _files.read_json(base.path / "config.json")["train"]
    assert TrainConfig(**{k: v for k, v in written.items() if k not in LATER}) == BASE


@pytest.mark.parametrize(
    ("options", "formula"),
    [
        ({"label_smoothing": 0.2}, lambda p, y: -((0.8 * np.eye(11)[y] + 0.2 / 11) * np.log(p)).sum(axis=1)),
        ({"loss": "focal"}, lambda p, y: -((1 - p[range(len(y)), y]) ** 2) * np.log(p[range(len(y)), y])),
        (
            {"loss": "focal", "label_smoothing": 0.1},
            lambda p, y: -((0.9 * np.eye(11)[y] + 0.1 / 11) * (1 - p) ** 2 * np.log(p)).sum(axis=1),
        ),
    ],
)
def test_smoothed_and_focal_losses_by_their_formulas(demo, options, formula):
    inputs = np.random.default_rng(0).normal(size=(len(demo), 4)).astype(np.float32)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(11)])
    p = softmax(model.predict(inputs, verbose=0).astype(np.float64), axis=1)
    fit = Fit(Part(model), inputs, demo, dataclasses.replace(BASE, **options), "head", "sgd", 1e-12)
    rows, validation = demo.indices("train"), demo.indices("validation")
    row = fit.epoch(0)
    assert row["train_loss"] == pytest.approx(formula(p[rows], demo.labels[rows]).mean(), rel=1e-4)
    plain = -np.log(p[validation, demo.labels[validation]]).mean()  # the validation loss is comparable over all runs
    assert row["val_loss"] == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("loss", ["categorical_crossentropy", "sparse_categorical_crossentropy"])
def test_both_cross_entropies_are_the_same(demo, tmp_path, loss):
    """One epoch at a rate of almost 0: the loss is the mean of -log p of the true class."""
    inputs = np.random.default_rng(0).normal(size=(len(demo), 4)).astype(np.float32)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(11)])
    rows = demo.indices("train")
    p = softmax(model.predict(inputs, verbose=0).astype(np.float64), axis=1)
    expected = -np.log(p[rows, demo.labels[rows]]).mean()
    fit = Fit(Part(model), inputs, demo, dataclasses.replace(BASE, loss=loss), "head", "sgd", 1e-12)
    row = fit.epoch(0)
    # In Keras every batch reports the mean over the epoch so far; ours must be the mean over the images.
    assert row["train_loss"] == pytest.approx(expected, rel=1e-4)
    validation = demo.indices("validation")
    assert row["val_loss"] == pytest.approx(-np.log(p[validation, demo.labels[validation]]).mean(), rel=1e-4)


def test_head_rate_by_its_formula():
    features = np.full((3, 2, 5), 2.0)  # sum |feature| = 20
    assert head_rate(features) == pytest.approx(0.5 / 20)
    assert head_rate(-features) == pytest.approx(0.5 / 20)
    assert head_rate(features * 1e6) == 3e-4
    assert head_rate(features * 0) == 3e-2


def test_optimizers_are_those_of_keras(demo):
    inputs = np.zeros((len(demo), 4), np.float32)
    for name, (kind, options, rate, _) in OPTIMIZERS.items():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(11)])
        fit = Fit(Part(model), inputs, demo, BASE, "fine-tune", name, rate)
        optimizer = fit.optimizer.get_config()
        assert type(fit.optimizer).__name__ == kind
        assert optimizer["learning_rate"] == pytest.approx(rate)
        assert {key: optimizer[key] for key in options} == options


def test_a_large_gradient_is_clipped(demo):
    """Plain SGD changes a part's weights by at most rate * CLIP_NORM, and by less if the gradient is smaller."""
    rows = np.arange(8)
    for size, change in ((1e6, 0.5 * CLIP_NORM), (1e-6, 0.0)):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(11, use_bias=False)])
        model.layers[0].kernel.assign(np.zeros((4, 11)))  # no class leads, so the gradient grows with the inputs
        inputs = np.full((len(demo), 4), size, np.float32)
        fit = Fit(Part(model), inputs, demo, BASE, "fine-tune", "sgd", 0.5)
        before = fit.trained_weights()[0]
        loss, accuracy, clipped = fit.step(inputs[rows], *fit.targets.batch(rows))
        assert clipped == (size > 1)
        assert np.linalg.norm(fit.trained_weights()[0] - before) == pytest.approx(change, rel=1e-4, abs=1e-5)
        assert loss > 0
        assert 0 <= accuracy <= 1


def test_a_block_takes_the_same_step_however_many_others_are_trained(demo):
    """With one norm over all variables, the head's step would be shorter the more blocks are trained."""
    steps, shares = [], []
    for through in (0, 3, 5):
        model = build_vgg16(11, image_size=(32, 32), weights="slim", seed=0)
        head = model.get_layer("logits")
        head.set_weights([head.get_weights()[0] * 3000, head.get_weights()[1]])  # so that every part is clipped
        freeze_blocks(model, through)
        fit = Fit(Part(model), demo.load().astype(np.float32), demo, BASE, "fine-tune", "sgd", 1e-3)
        before = head.get_weights()[0]
        rows = np.arange(8)
        shares.append(fit.step(fit.inputs[rows], *fit.targets.batch(rows))[2])
        steps.append(head.get_weights()[0] - before)
    assert shares == [1, 1, 1]
    assert np.linalg.norm(steps[0]) > 1e-4
    np.testing.assert_allclose(steps[1:], [steps[0]] * 2, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(("given", "trained", "through", "text"), [("1", {1}, 0, "1"), ("3,5", {3, 5}, 2, "3,5")])
def test_only_the_named_blocks_are_trained(demo, tmp_path, cache, given, trained, through, text):
    """And the features up to the first of them are cached, as with a freezing point."""
    options = {"epochs": 1, "learning_rate": 0.02, "runs_dir": tmp_path, "cache_dir": cache}
    run = train_model(demo, BASE, freeze_through=through, trained_blocks=given, **options)
    assert run.name == f"train{text}-{run.config.optimizer}-seed0"
    assert run.config.freeze_through == through
    start = build_vgg16(11, image_size=(32, 32), weights="slim", seed=0)
    changed = {b for b, names in convolutions().items() for n in names if not same_weights(run.model, start, n)}
    assert changed == trained


def same_weights(model, other, name):
    return all(
        np.array_equal(a, b) for a, b in zip(*(m.get_layer(name).get_weights() for m in (model, other)), strict=True)
    )


def test_blocks_up_to_the_end_are_a_freezing_point():
    """'4-5' is the same run as freezing Block 1-3."""
    assert TrainConfig(trained_blocks="4-5") == TrainConfig(freeze_through=3)
    assert TrainConfig(trained_blocks="all") == TrainConfig(freeze_through=0)
    assert TrainConfig(trained_blocks=[1, 5]).frozen_above == (2, 3, 4)
    with pytest.raises(ConfigError, match="freeze_through must be 0, or left out, with trained_blocks 1"):
        TrainConfig(trained_blocks="1", freeze_through=4)


def test_the_head_alone_is_a_candidate(demo, tmp_path):
    """Fine-tuning that only makes the model worse gives back the head's scores and weights."""
    run = train_model(demo, BASE, learning_rate=10.0, optimizer="adam", epochs=1, runs_dir=tmp_path, cache_dir=tmp_path)
    head, tuned = run.history["val_f1_macro"]
    assert list(run.history["stage"]) == ["head", "fine-tune"]
    assert tuned < head
    assert run.score("validation") == pytest.approx(head)
    assert run.history["clipped"].between(0, 1).all()


def test_runs_are_found_newest_first_and_by_fingerprint(run, tmp_path):
    import os

    for number, name in enumerate(("old", "new")):
        folder = tmp_path / name
        folder.mkdir()
        for file in run.path.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        os.utime(folder / "result.json", (1e9 + number, 1e9 + number))
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.json").write_text(json.dumps({"identity": {}}))
    assert [p.name for p in find_runs(tmp_path)] == ["new", "old"]
    assert [p.name for p in find_runs(tmp_path, run.fingerprint)] == ["new", "old"]
    assert find_runs(tmp_path, "0" * 16) == []


def test_no_graph_outlives_its_training(demo, tmp_path):
    """A graph holds the weights of its model: otherwise a sweep of many runs in one process would fill the memory."""

    def count_graphs():
        gc.collect()
        return sum(type(item).__name__ == "FuncGraph" for item in gc.get_objects())

    train_model(demo, BASE, runs_dir=tmp_path, freeze_through=4)
    before = count_graphs()
    train_model(demo, BASE, runs_dir=tmp_path, freeze_through=3)
    assert count_graphs() == before
