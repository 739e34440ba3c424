"""The Ray engine on a real cluster of two one-CPU machines, simulated by processes of this machine."""

import contextlib
import dataclasses
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from driving import finish, results, start, wait_for, xaitune

from xaitune.comparison.comparison import compare
from xaitune.comparison.engines import ray as rayengine
from xaitune.comparison.sweep import sweep_freeze
from xaitune.comparison.table import load_sweep
from xaitune.config.settings import SweepConfig, TrainConfig
from xaitune.errors import ConfigError, RunError

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'xaitune[ray]'")
BASE = TrainConfig(weights="slim", head_epochs=1, epochs=3, patience=9, precision="float32")
GRID = {"freeze_through": (3, 4, 5), "optimizers": ("sgd", "nag"), "seeds": 1, "learning_rates": "own"}  # 6 runs
OPTIONS = "--weights slim --head-epochs 1 --epochs 3 --patience 9 --precision float32 --seeds 1"
OPTIONS += " --freeze-through 3-5 --optimizers sgd,nag --learning-rates own"


@pytest.fixture(scope="module")
def cluster():
    """The address of a cluster of two machines with one CPU each."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    cluster = None
    try:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
    except Exception as error:
        if cluster:
            cluster.shutdown()
        pytest.skip(f"Ray cannot start a cluster here: {error}")
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


def make_advice(demo, folder):
    """`xaitune advise`, which also computes the features that the head of every run is trained on.

    Features differ in the last digits with the number of threads, so sweeps that are compared must all begin with it.
    """
    where = [demo.config.path, "--groups", demo.config.groups, "--masks", demo.config.masks, "--image-size", "32x32"]
    xaitune(
        folder,
        "advise",
        "--method",
        "features",
        *where,
        "--weights",
        "slim",
        "--precision",
        "float32",
        "--runs-dir",
        folder,
    )
    return where


@pytest.fixture(scope="module")
def undisturbed(demo, tmp_path_factory):
    """The results of the local engine, with one thread per worker like Ray's tasks."""
    folder = tmp_path_factory.mktemp("local")
    make_advice(demo, folder)
    return results(sweep_freeze(demo, train=BASE, runs_dir=folder, workers=len(os.sched_getaffinity(0)), **GRID).path)


def ray_tasks():
    """The processes that are working on a task of the Ray engine."""
    pids = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if file.read_bytes().startswith(b"ray::_ray_task"):
                pids.append(int(file.parent.name))
    return pids


def test_a_killed_sweep_on_ray_is_resumed_by_the_local_engine(demo, cluster, undisturbed, tmp_path):
    """6 runs on two machines: kill -9 ends the command and its tasks midway, and the local engine does the rest."""
    command = ["sweep-freeze", *make_advice(demo, tmp_path), *OPTIONS.split(), "--runs-dir", tmp_path]
    process = start(tmp_path, *command, "--engine", "ray", "--ray-address", cluster)
    try:
        wait_for(lambda: len(list(tmp_path.glob("sweep/*/result.json"))) >= 3 or process.poll() is not None)
        assert ray_tasks()
        process.kill()
    finally:
        answer = finish(process)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("sweep/*/result.json")}
    assert 3 <= len(before) < 8, answer.err
    assert "Ray: 2 machines, 2 CPUs; 1 CPUs and 0 GPUs per run" in answer.out
    wait_for(lambda: not ray_tasks(), seconds=60)
    workers = str(len(os.sched_getaffinity(0)))
    assert xaitune(tmp_path, *command, "--engine", "local", "--workers", workers).status == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before  # no run was trained again
    table = load_sweep(tmp_path / "sweep")
    assert len(table.runs) == 6
    assert set(table.runs["state"]) == {"finished"}
    assert results(table.path) == undisturbed  # bit for bit the same with either engine
    assert not list(tmp_path.glob("sweep/*/checkpoint/*"))


def test_sigterm_ends_a_sweep_on_ray_as_any_other(demo, cluster, tmp_path):
    command = ["sweep-freeze", *make_advice(demo, tmp_path), *OPTIONS.replace("--epochs 3", "--epochs 300").split()]
    process = start(tmp_path, *command, "--patience", "300", "--engine", "ray", "--ray-address", cluster)
    try:
        wait_for(lambda: list(tmp_path.glob("runs/sweep/freeze*/history.csv")) or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
    finally:
        answer = finish(process, timeout=60)
    assert answer.status == 143, answer.err
    assert "Interrupted. What was finished is kept" in answer.err
    wait_for(lambda: not ray_tasks(), seconds=60)


def test_a_task_that_dies_is_tried_once_more(demo, cluster, tmp_path):
    killed, notes = [], []
    grid = {"freeze_through": (3,), "optimizers": ("nag",), "seeds": 1, "engine": "ray", "ray_address": cluster}
    grid |= {"learning_rates": "own"}
    train = dataclasses.replace(BASE, epochs=60, patience=60)  # long enough to be seen while it trains

    def progress(done, total, what):
        if "fine-tune" in what and not killed:
            killed.extend(ray_tasks())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    table = sweep_freeze(demo, train=train, runs_dir=tmp_path, progress=progress, notes=notes.append, **grid)
    assert killed
    assert list(table.runs["state"]) == ["finished"]
    assert "Ray: 2 machines, 2 CPUs; 1 CPUs and 0 GPUs per run" in notes
    assert not ray.is_initialized()


def test_a_comparison_of_four_runs(demo, cluster, tmp_path):
    """Two losses, two seeds: the same table as the local engine's."""
    options = {"factor": "loss", "values": ["categorical_crossentropy", "focal"], "seeds": 2, "learning_rates": "own"}
    train = dataclasses.replace(BASE, freeze_through=4)
    table = compare(demo, train, runs_dir=tmp_path / "ray", engine="ray", ray_address=cluster, **options)
    assert table.cells["seeds"].tolist() == [2, 2]
    local = compare(demo, train, runs_dir=tmp_path / "local", **options)
    for column in ("validation", "test"):
        np.testing.assert_allclose(table.cells[column], local.cells[column], atol=0.02)


def test_more_than_any_machine_has_is_refused(demo, cluster, tmp_path):
    options = {"runs_dir": tmp_path, "engine": "ray", "ray_address": cluster, "seeds": 1}
    with pytest.raises(ConfigError, match=r"has 3 CPUs and 0 GPUs for a run \(they have: 1 CPUs, 0 GPUs; 1 CPUs"):
        sweep_freeze(demo, train=BASE, run_cpus=3, **options)
    with pytest.raises(ConfigError, match="1 CPUs and 1 GPUs"):
        sweep_freeze(demo, train=BASE, run_gpus=1, **options)


def test_no_cluster_at_the_address(demo, tmp_path):
    began = time.monotonic()
    with pytest.raises(RunError, match=r"Ray cannot be reached at 127\.0\.0\.1:1"):
        sweep_freeze(demo, train=BASE, runs_dir=tmp_path, engine="ray", ray_address="127.0.0.1:1", seeds=1)
    assert time.monotonic() - began < 60


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'xaitune\[ray\]'"):
        rayengine.run_ray([], 1, print, print)


def test_ray_options_with_the_local_engine(demo, tmp_path):
    with pytest.raises(ConfigError, match="run_gpus must be left out unless engine is ray"):
        sweep_freeze(demo, train=BASE, runs_dir=tmp_path, run_gpus=1)
    SweepConfig(engine="local", run_gpus=1).require_engine(["engine"])  # settings from a file are ignored
