"""What the settings of tracking accept, and that they are no part of a run."""

import importlib.util
import json
import shutil
from unittest import mock

import pytest
from driving import xaitune

from xaitune import ConfigError, TrackingConfig, TrainConfig, load_config, train_model
from xaitune.config.fields import identity_of
from xaitune.tracking import follow
from xaitune.tracking.contents import end_times, metrics_of, read_contents
from xaitune.tracking.mlflow_server import _calling, at_most
from xaitune.tracking.run_log import RECORD, record_of


@pytest.mark.parametrize("value", ["local", "http://127.0.0.1:5000", "https://host/path", "sqlite:////a/b.db", None])
def test_addresses(value):
    assert TrackingConfig(mlflow=value).mlflow == value


@pytest.mark.parametrize("value", ["", "mlruns", "ftp://host", "file:///mlruns", "http:", "sqlite:", "http://[bad"])
def test_what_is_no_address(value):
    with pytest.raises(ConfigError, match=r"mlflow must be 'local' or an address"):
        TrackingConfig(mlflow=value)


@pytest.mark.parametrize(
    "value", ["https://me:secret@host", "http://me:sec/secret@host", "postgresql://me:secret@host/db"]
)
def test_a_password_is_refused_and_not_repeated(value):
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        TrackingConfig(mlflow=value)
    assert "secret" not in str(refused.value)


def test_tracking_is_a_table_of_its_own(tmp_path):
    (tmp_path / "xaitune.toml").write_text('[tracking]\nmlflow = "local"\ntensorboard = true\n')
    config = load_config(tmp_path / "xaitune.toml")
    assert config.tracking == TrackingConfig(tensorboard=True, mlflow="local")
    assert config.tracking.located("/a/runs").mlflow == "sqlite:////a/runs/mlflow.db"
    assert not {"mlflow", "tensorboard"} & set(identity_of(TrainConfig()))


@pytest.mark.parametrize(
    ("tracking", "module"),
    [
        ({"tensorboard": True}, "tensorboard"),
        ({"mlflow": "http://127.0.0.1:1"}, "mlflow"),
        ({"mlflow": "local"}, "alembic"),
    ],
)
def test_a_missing_package_is_said_before_anything_is_written(demo, tmp_path, monkeypatch, tracking, module):
    found = importlib.util.find_spec
    present = {"mlflow", "sqlalchemy", "tensorboard", "alembic"} - {module}
    missing = lambda name, *rest: None if name == module else "here" if name in present else found(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    with pytest.raises(ConfigError, match=rf"needs the package {module}. Install it: pip install 'xaitune\["):
        train_model(demo, weights="slim", runs_dir=tmp_path / "runs", tracking=TrackingConfig(**tracking))
    assert not (tmp_path / "runs").exists()


def test_a_damaged_record_says_that_nothing_was_sent(tmp_path):
    (tmp_path / RECORD).write_text("{")
    assert record_of(tmp_path) == {"uri": None, "run_id": None, "sent": False}


def test_a_slow_server_is_asked_no_more_once_the_time_is_up():
    with at_most(60.0), _calling():
        pass
    with at_most(-1.0), pytest.raises(TimeoutError, match="too slow"), _calling():
        pass
    with _calling():
        pass


def test_figures_that_are_not_finite_are_left_out():
    row = {"stage": "head", "epoch": 1, "train_loss": float("nan"), "val_loss": 0.5, "seconds": 2}
    assert metrics_of(row) == {"validation/loss": 0.5, "epoch/seconds": 2.0}
    assert end_times([{"seconds": 1.0}, {"seconds": 2.0}, {"seconds": 4.0}], 50.0) == [44.0, 46.0, 50.0]


def test_track_says_what_it_lacks(tmp_path):
    assert "No run in runs. Train one" in xaitune(tmp_path, "track", "--mlflow", "local").error
    (tmp_path / "empty").mkdir()
    assert "empty holds no run, sweep or comparison." in xaitune(tmp_path, "track", "empty").error


def test_track_writes_event_files_and_needs_an_address(run, tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / run.name).symlink_to(run.path)
    answer = xaitune(tmp_path, "track")
    assert answer.status == 2
    assert "No address of MLflow. Give --mlflow local" in answer.error
    said = xaitune(tmp_path, "track", "--tensorboard", "--json")
    assert json.loads(said.out)["event_files"] == 1
    made = list(run.path.glob("events.out.tfevents.*"))
    assert len(made) == 1
    assert made[0].stat().st_size > 10_000  # with its pictures
    made[0].unlink()


def test_a_full_disk_ends_the_event_file_and_not_the_training(run, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    shutil.copytree(run.path, tmp_path / "run")
    said = []
    follower = follow.Follower(tmp_path / "run", TrackingConfig(tensorboard=True), said.append)
    follower.start()
    monkeypatch.setattr(follower.events, "flush", mock.Mock(side_effect=OSError(28, "No space left on device")))
    for _ in range(2):
        follower.epochs(read_contents(run.path).rows)
    follower.end()
    assert len(said) == 1
    assert "No space left" in said[0]
