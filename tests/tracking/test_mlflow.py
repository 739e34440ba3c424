"""Runs in MLflow, read back through its client: one run, a sweep with its runs, a server that is away."""

import contextlib
import dataclasses
import json
import shutil
import socket

import pandas as pd
import pytest
from driving import xaitune

from xaitune import TrackingConfig, TrainConfig, load_run, sweep_freeze, train_model
from xaitune._files import write_json
from xaitune.comparison.tracked import close_group
from xaitune.tracking import follow
from xaitune.tracking.contents import read_contents
from xaitune.tracking.follow import Follower
from xaitune.tracking.run_log import record_of
from xaitune.training import stages

SMALL = TrainConfig(weights="slim", head_epochs=1, epochs=3, freeze_through=4, precision="float32")
PARENT = "mlflow.parentRunId"


@pytest.fixture
def client(server):
    """A client of the server."""
    return pytest.importorskip("mlflow").MlflowClient(tracking_uri=server)


def history(client, run_id, names):
    """name -> [(step, value)] of a run's metrics."""
    found = {name: client.get_metric_history(run_id, name) for name in names}
    return {name: sorted((m.step, m.value) for m in values) for name, values in found.items()}


def expected(folder):
    """The same from history.csv, of three of its columns."""
    frame = pd.read_csv(folder / "history.csv")
    names = {"train_loss": "train/loss", "val_f1_macro": "validation/f1_macro", "seconds": "epoch/seconds"}
    return {new: [(i, pytest.approx(v)) for i, v in enumerate(frame[name], start=1)] for name, new in names.items()}


def artifacts(client, run_id):
    return {item.path for item in client.list_artifacts(run_id)}


@pytest.fixture
def copied(run, tmp_path):
    """A finished run that has not been logged, in a folder of its own."""
    return shutil.copytree(run.path, tmp_path / "runs" / run.name)


def test_a_training_interrupted_and_resumed_is_one_run(server, client, demo, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "SAVE_SECONDS", 0.0)
    tracking = TrackingConfig(mlflow=server, mlflow_experiment="parts", tensorboard=True)

    def stop(done, total, what):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_model(demo, SMALL, runs_dir=tmp_path, tracking=tracking, progress=stop)
    folder = tmp_path / "freeze4-nag-seed0"
    begun = record_of(folder)
    assert begun["uri"] == server
    assert begun["sent"] is False
    assert client.get_run(begun["run_id"]).info.status == "RUNNING"
    assert len(client.get_metric_history(begun["run_id"], "train/loss")) >= 1  # while it trained

    run = train_model(demo, SMALL, runs_dir=tmp_path, tracking=tracking)
    assert record_of(folder) == begun | {"sent": True}
    (logged,) = client.search_runs([client.get_experiment_by_name("parts").experiment_id])
    assert (logged.info.run_id, logged.info.run_name, logged.info.status) == (begun["run_id"], run.name, "FINISHED")
    # Every epoch once, with the figures of history.csv.
    want = expected(folder)
    assert len(want["train/loss"]) == 4
    assert history(client, begun["run_id"], want) == want
    params = logged.data.params
    assert (params["optimizer"], params["freeze_through"], params["seed"]) == ("nag", "4", "0")
    assert float(params["learning_rate"]) == run.config.rate
    assert json.loads(params["data.image_size"]) == [32, 32]
    for split in ("validation", "test"):
        assert logged.data.metrics[f"final/{split}_f1_macro"] == pytest.approx(run.metrics[split]["f1_macro"])
    tags = logged.data.tags
    assert (tags["xaitune.data"], tags["xaitune.state"]) == (demo.fingerprint, "finished")
    assert tags["xaitune.folder"] == str(folder)
    assert tags["mlflow.note.content"].startswith("# Model card")
    assert PARENT not in tags
    (used,) = logged.inputs.dataset_inputs
    assert used.dataset.digest == demo.fingerprint
    assert artifacts(client, begun["run_id"]) == {
        *("config.json", "history.csv", "metadata.json", "model-card.md", "result.json"),
        *("confusion-matrix.png", "learning-curves.png"),
    }
    # TensorBoard's file has the same figures, once for each epoch, and the pictures.
    events = read_events(folder)
    for name, values in want.items():
        assert [(e.step, pytest.approx(e.value, rel=1e-5)) for e in events.Scalars(name)] == values
    assert events.Scalars("final/test_f1_macro")[0].value == pytest.approx(run.score("test"), rel=1e-5)
    assert set(events.Tags()["images"]) == {"pictures/learning-curves", "pictures/confusion-matrix"}
    assert events.Images("pictures/confusion-matrix")[0].encoded_image_string.startswith(b"\x89PNG")
    groups = {tag.partition("/")[0] for tag in events.Tags()["scalars"]}
    assert groups == {"train", "validation", "epoch", "final"}
    hparams = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = hparams.HParamsPluginData.FromString(content).session_start_info.hparams
    assert (settings["optimizer"].string_value, settings["freeze_through"].number_value) == ("nag", 4)


def read_events(folder):
    """TensorBoard's own reader of the event files in a folder."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder), size_guidance={"tensors": 0, "images": 0, "scalars": 0})
    return events.Reload()


def test_a_sweep_is_a_run_that_contains_its_runs(server, client, demo, tmp_path):
    tracking = TrackingConfig(mlflow=server, mlflow_experiment="sweep")
    base = dataclasses.replace(SMALL, epochs=1)
    grid = {"freeze_through": "4-5", "optimizers": "nag", "seeds": 1, "learning_rates": "own", "workers": 1}
    sweep_freeze(demo, train=base, runs_dir=tmp_path, tracking=tracking, **grid)
    experiment = client.get_experiment_by_name("sweep").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    children = {"freeze4-nag-seed0", "freeze5-nag-seed0", "frozen-all-blocks", "frozen-best-block"}
    assert runs.keys() == {"sweep", *children}
    parent = runs["sweep"]
    assert {runs[name].data.tags[PARENT] for name in children} == {parent.info.run_id}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    want = expected(tmp_path / "sweep/freeze4-nag-seed0")
    assert history(client, runs["freeze4-nag-seed0"].info.run_id, want) == want
    assert runs["freeze4-nag-seed0"].data.params["freeze_through"] == "4"
    assert parent.data.params["epochs"] == "1"
    assert parent.data.tags["xaitune.data"] == demo.fingerprint
    best = parent.data.tags["xaitune.best"]
    assert best in ("freeze4-nag", "freeze5-nag")
    score = load_run(tmp_path / f"sweep/{best}-seed0").score("test")
    assert parent.data.metrics["best_test"] == pytest.approx(score)
    assert artifacts(client, parent.info.run_id) == {
        "config.json",
        "sweep.json",
        "sweep.csv",
        "cells.png",
        "curves.png",
    }

    # The verdict comes later: the same run gets it.
    write_json(tmp_path / "sweep/check.json", {"verdict": "cannot tell", "sentence": "Cannot tell: too few images."})
    close_group(tmp_path / "sweep", tracking, pytest.fail)
    again = client.get_run(parent.info.run_id)
    assert again.data.tags["xaitune.verdict"] == "cannot tell"
    assert again.data.tags["mlflow.note.content"].startswith("Cannot tell")
    assert "check.json" in artifacts(client, parent.info.run_id)
    assert len(client.search_runs([experiment])) == 5

    # A comparison contains such sweeps; `xaitune track` sends one that was made without MLflow.
    folder, names = tmp_path / "later/comparison", ("categorical_crossentropy", "focal")
    ignored = shutil.ignore_patterns("mlflow.json", "frozen-*", "check.json")
    for name in names:
        shutil.copytree(tmp_path / "sweep", folder / f"loss={name}", ignore=ignored)
    identity = {"fingerprint": demo.fingerprint, "weights": "", "factors": ["loss"], "batch_size": 32}
    write_json(folder / "config.json", {"format": 2, "kind": "comparison", "identity": identity})
    parts = {f"loss={name}": {"loss": name} for name in names}
    write_json(folder / "comparison.json", {"factors": ["loss"], "parts": parts})
    (folder / "comparison.csv").write_text("name\n")
    said = xaitune(tmp_path, "track", folder, "--mlflow", server, "--mlflow-experiment", "losses", "--json")
    assert said.status == 0, said.err
    assert len(said.json["sent"][server]) == 7
    found = client.search_runs([client.get_experiment_by_name("losses").experiment_id])
    above = {run.info.run_id: run.data.tags.get(PARENT) for run in found}
    kinds = {run.info.run_id: run.data.tags["xaitune.kind"] for run in found}
    assert sorted(kinds.values()) == ["comparison", "run", "run", "run", "run", "sweep", "sweep"]
    levels = {(kinds[run_id], kinds.get(parent)) for run_id, parent in above.items()}
    assert levels == {("comparison", None), ("sweep", "comparison"), ("run", "sweep")}
    (top,) = (run for run in found if kinds[run.info.run_id] == "comparison")
    assert top.data.tags["mlflow.note.content"].startswith("Best on validation")
    assert "comparison.csv" in artifacts(client, top.info.run_id)


def test_a_server_that_is_away_is_said_once_and_gets_the_run_later(server, client, demo, tmp_path):
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{closed.getsockname()[1]}"
        said = []
        tracking = TrackingConfig(mlflow=away)
        run = train_model(demo, SMALL, runs_dir=tmp_path / "runs", tracking=tracking, notes=said.append)
        assert run.state == "finished"
        (message,) = said
        assert f"MLflow at {away} cannot be used (Connection refused)." in message
        assert f"xaitune track {run.path}" in message
        assert record_of(run.path) == {"uri": away, "run_id": None, "sent": False}
        refused = xaitune(tmp_path, "track")  # where it was meant for
        assert refused.status == 1
        assert refused.error == f"Error: MLflow at {away} cannot be used: Connection refused."
    sent = xaitune(tmp_path, "track", "--mlflow", server, "--mlflow-experiment", "late", "--mlflow-model")
    assert sent.status == 0, sent.err
    (logged,) = client.search_runs([client.get_experiment_by_name("late").experiment_id])
    want = expected(run.path)
    assert history(client, logged.info.run_id, want) == want
    assert "model.keras" in artifacts(client, logged.info.run_id)
    took = (logged.info.end_time - logged.info.start_time) / 1000
    assert took == pytest.approx(run.history["seconds"].sum(), abs=0.01)  # when it was trained, not when it was sent
    again = xaitune(tmp_path, "track", "--mlflow", server, "--mlflow-experiment", "late")
    assert "nothing, all of it is there" in again.out
    assert len(client.search_runs([client.get_experiment_by_name("late").experiment_id])) == 1


def test_a_server_that_never_answers_costs_seconds(copied, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(follow, "AWAY", {})
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)  # connections are made, and nothing is ever said
        uri, said, rows = f"http://127.0.0.1:{silent.getsockname()[1]}", [], read_contents(copied).rows
        for _ in range(3):  # three trainings of one process
            follower = Follower(copied, TrackingConfig(mlflow=uri), said.append)
            follower.start()
            for count in range(1, len(rows) + 1):
                follower.epochs(rows[:count])
            follower.end()
        silent.setblocking(False)
        asked = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                silent.accept()[0].close()
                asked += 1
    assert asked == 1  # one time limit in all, whatever the machine's speed
    assert len(said) == 1
    assert "timed out" in said[0]


def test_a_file_next_to_the_runs(copied, run, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("alembic")
    said = xaitune(tmp_path, "track", "--mlflow", "local", "--json")
    assert said.status == 0, said.err
    uri = f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert said.json["sent"] == {uri: [str(copied.relative_to(tmp_path))]}
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("xaitune")
    assert experiment.artifact_location == (tmp_path / "runs/mlflow-artifacts").as_uri()
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.data.metrics["final/test_f1_macro"] == pytest.approx(run.score("test"))
    assert list((tmp_path / "runs/mlflow-artifacts").rglob("model-card.md"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]  # nothing elsewhere
