"""The local engine and its workers: killing a worker or the parent leaves nothing behind and changes no result."""

import dataclasses
import json
import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from driving import alive, children, results, wait_for

from xaitune.comparison.engines import local as engine
from xaitune.comparison.engines.task import End, Step, Task, event_from_json, event_to_json
from xaitune.comparison.engines.worker import own_memory
from xaitune.comparison.sweep import sweep_freeze
from xaitune.config.settings import DataConfig, TrainConfig
from xaitune.errors import RunError

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")

BASE = TrainConfig(weights="slim", head_epochs=1, epochs=3, patience=9, precision="float32")
GRID = {"freeze_through": (4, 5), "optimizers": ("nag",), "seeds": 1, "learning_rates": "own"}
NAMES = ("freeze4-nag-seed0", "freeze5-nag-seed0")

TASK = Task("freeze3-nag-seed0", DataConfig("images"), "0" * 16, BASE, "runs", "cache", 1.0)


def workers_of(pid):
    """The worker processes of a process."""
    return [
        child
        for child in children(pid)
        if b"xaitune.comparison.engines.worker" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def killer(text, times=1):
    """A progress function that kills this process's workers with -9 at the first `times` messages that contain `text`."""
    killed = []

    def progress(done, total, what):
        if text in what and len(killed) < times:
            for pid in workers_of(os.getpid()):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    progress.killed = killed
    return progress


@pytest.fixture
def own_workers(kept_workers, monkeypatch):
    """The sweeps of a test start workers of their own and end them, as outside the tests."""
    for workers in kept_workers.values():
        for worker in workers:
            worker.close()
    kept_workers.clear()
    monkeypatch.setattr(engine, "_WorkerPool", engine._WorkerPool.__base__)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Frozen features and heads that the sweeps share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def undisturbed(demo, cache, tmp_path_factory):
    """The results of an undisturbed sweep."""
    runs_dir = tmp_path_factory.mktemp("undisturbed")
    return results(sweep_freeze(demo, train=BASE, runs_dir=runs_dir, cache_dir=cache, workers=1, **GRID).path)


def test_the_number_of_workers_changes_nothing(demo, cache, undisturbed, tmp_path):
    table = sweep_freeze(demo, train=BASE, runs_dir=tmp_path, cache_dir=cache, workers=2, **GRID)
    for name, (_, history) in results(table.path).items():
        assert history.count("\n") == undisturbed[name][1].count("\n")
    for name in NAMES:
        assert list(table.predictions(name)["predicted"]) == [
            row.split(",")[4] for row in undisturbed[name][0].decode().splitlines()[1:]
        ]


def test_a_diverged_run_is_recorded_and_never_tried_again(demo, cache, tmp_path):
    """Without clipping or normalisation a rate of 10 blows up: float32 overflows to inf, then NaN."""
    options = {"runs_dir": tmp_path, "cache_dir": cache, "workers": 1, "seeds": 1, "freeze_through": (0, 5)}
    train = TrainConfig(weights="slim", head_epochs=1, epochs=3, precision="float32", learning_rate=10.0)
    table = sweep_freeze(demo, train=train, optimizers=("rmsprop",), **options)
    states = dict(zip(table.runs["name"], table.runs["state"], strict=True))
    assert states == {"freeze0-rmsprop-seed0": "diverged", "freeze5-rmsprop-seed0": "finished"}
    assert list(table.cells["name"]) == ["freeze5-rmsprop"]
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("sweep/*/result.json")}
    sweep_freeze(demo, train=train, optimizers=("rmsprop",), **options)
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_changed_images_fail_every_run_with_one_clear_error(demo, cache, tmp_path):
    changed = dataclasses.replace(demo, fingerprint="0" * 16)
    with pytest.raises(RunError, match="The images have changed since the sweep began"):
        sweep_freeze(changed, train=BASE, runs_dir=tmp_path, cache_dir=cache, workers=1, **GRID)


@pytest.mark.usefixtures("own_workers")
def test_a_killed_worker_is_replaced_and_its_run_resumes(demo, cache, undisturbed, tmp_path):
    progress = killer("freeze4-nag-seed0: fine-tune 2/3")
    table = sweep_freeze(demo, train=BASE, runs_dir=tmp_path, cache_dir=cache, workers=1, progress=progress, **GRID)
    assert len(progress.killed) == 1
    assert tuple(table.runs["name"]) == NAMES  # each once
    assert set(table.runs["state"]) == {"finished"}
    assert results(table.path) == undisturbed  # bit for bit
    assert not workers_of(os.getpid())
    assert not list(tmp_path.glob("sweep/*/checkpoint/*"))


@pytest.mark.usefixtures("own_workers")
def test_a_run_that_dies_twice_is_recorded_and_the_others_continue(demo, cache, undisturbed, tmp_path):
    progress = killer("freeze5-nag-seed0: ", times=2)
    table = sweep_freeze(demo, train=BASE, runs_dir=tmp_path, cache_dir=cache, workers=1, progress=progress, **GRID)
    assert len(progress.killed) == 2
    states = dict(zip(table.runs["name"], table.runs["state"], strict=True))
    assert states["freeze4-nag-seed0"] == "finished"
    assert states["freeze5-nag-seed0"].startswith("failed: its process was killed by SIGKILL")
    assert list(table.cells["name"]) == ["freeze4-nag"]
    record = json.loads((table.path / "sweep.json").read_text())
    assert list(record["failures"]) == ["freeze5-nag-seed0"]
    # The same call tries the run again and clears the record.
    table = sweep_freeze(demo, train=BASE, runs_dir=tmp_path, cache_dir=cache, workers=1, **GRID)
    assert set(table.runs["state"]) == {"finished"}
    assert json.loads((table.path / "sweep.json").read_text())["failures"] == {}
    assert results(table.path) == undisturbed


def test_workers_die_with_a_killed_parent_and_the_same_call_resumes(demo, cache, undisturbed, tmp_path):
    code = f"""
from xaitune import DataConfig, ImageData, TrainConfig, sweep_freeze
data = ImageData.from_config({demo.config!r})
train = {BASE!r}
sweep_freeze(data, train=train, runs_dir={str(tmp_path)!r}, cache_dir={str(cache)!r}, workers=1, **{GRID!r})
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: list(tmp_path.glob("sweep/freeze*/config.json")) or parent.poll() is not None)
        workers = workers_of(parent.pid)
        parent.kill()
        parent.wait()
    finally:
        parent.kill()
    assert workers, parent.stderr.read().decode()
    wait_for(lambda: not any(alive(pid) for pid in workers), seconds=20)
    assert len(list(tmp_path.glob("sweep/freeze*/result.json"))) < 2
    table = sweep_freeze(demo, train=BASE, runs_dir=tmp_path, cache_dir=cache, workers=1, **GRID)
    assert tuple(table.runs["name"]) == NAMES
    assert results(table.path) == undisturbed


@pytest.mark.usefixtures("own_workers")
def test_interrupted_calls_end_their_workers(demo, cache, tmp_path):
    def progress(done, total, what):
        if "fine-tune 1/" in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep_freeze(demo, train=BASE, runs_dir=tmp_path, cache_dir=cache, workers=1, progress=progress, **GRID)
    assert not workers_of(os.getpid())


@pytest.mark.usefixtures("own_workers")
def test_a_worker_that_has_grown_is_replaced_after_its_run(demo, cache, undisturbed, tmp_path, monkeypatch):
    """With a limit below a worker's memory after its first run, each run gets a new worker."""
    monkeypatch.setattr(engine, "GROWTH", 0.5)
    workers = set()

    def record(name, done, total, what):
        if "fine-tune" in what:
            workers.update((name, pid) for pid in workers_of(os.getpid()))

    table = sweep_freeze(demo, train=BASE, runs_dir=tmp_path, cache_dir=cache, workers=1, run_progress=record, **GRID)
    assert {name for name, _ in workers} == set(NAMES)
    assert len({pid for _, pid in workers}) == 2
    assert results(table.path) == undisturbed


def test_own_memory_leaves_out_mapped_files(tmp_path):
    before = own_memory()
    pages = mmap.mmap(
        -1, 40_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    )  # new pages, whatever memory malloc still has
    held = np.frombuffer(pages, np.uint8)
    held[:] = 1
    assert 35e6 < own_memory() - before < 80e6
    held.tofile(tmp_path / "mapped")
    before = own_memory()
    assert np.memmap(tmp_path / "mapped", mode="r").sum() == 40_000_000
    assert own_memory() - before < 20e6  # a mapped file is not the worker's own memory


def test_a_worker_ends_when_its_input_closes():
    worker = engine._Worker(1)
    worker.process.stdin.close()
    assert worker.process.wait(timeout=30) == 0
    worker.close()


def test_a_worker_takes_no_more_threads_than_its_share():
    worker = engine._Worker(3)
    environment = Path(f"/proc/{worker.process.pid}/environ").read_bytes().split(b"\0")
    worker.close()
    assert {b"XAITUNE_THREADS=3", b"OPENBLAS_NUM_THREADS=3", b"OMP_NUM_THREADS=3"} <= set(environment)


def test_a_killed_worker_reports_the_cause():
    worker = engine._Worker(1)
    worker.process.send_signal(signal.SIGTERM)
    with pytest.raises(RunError, match="killed by SIGTERM"):
        worker.do(TASK, lambda task, step: None)
    worker.close()


def test_each_worker_gets_its_own_graphics_card(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    pool = engine._WorkerPool(1)
    monkeypatch.setattr(engine, "_Worker", lambda threads, card: mock.Mock(card=card, grown=False))
    first, second = pool.take(), pool.take()
    assert [first.card, second.card] == ["2", "5"]
    pool.give_back(second, alive=True)
    assert pool.take() is second
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert engine._WorkerPool(1).take().card is None


def test_tasks_and_events_survive_json():
    features = dataclasses.replace(TASK, depths=(3, 5))
    assert TASK.is_run
    assert not features.is_run
    for task in (TASK, features):
        assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task
    for event in (Step(3, 12, "fine-tune 2/8"), End("finished", memory=7), End("failed", "memory ran out")):
        assert event_from_json(json.loads(json.dumps(event_to_json(event)))) == event
