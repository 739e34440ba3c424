"""The worker process, `python -m xaitune.comparison.engines.worker`: reads tasks and writes events, one JSON line each.

It ends when its standard input closes, as it also does when the parent dies. A Ray task calls `do_task` directly.
"""

import contextlib
import ctypes
import dataclasses
import functools
import gc
import json
import logging
import os
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from xaitune._progress import Progress
from xaitune.comparison.engines.task import End, Event, Step, Task, event_to_json
from xaitune.errors import DataError, XaituneError


@dataclasses.dataclass
class Kept:
    """What a worker keeps for its next task: the last data set by its DataConfig, and the last network."""

    images: dict[Any, Any] = dataclasses.field(default_factory=dict)
    networks: dict[Any, Any] = dataclasses.field(default_factory=dict)


def main() -> None:
    """Read tasks from standard input until it closes, and write events to what standard output was at the start."""
    events = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not mix with the events
    tasks: SimpleQueue[Task] = SimpleQueue()

    def read_tasks() -> None:
        for line in sys.stdin:
            tasks.put(Task.from_json(json.loads(line)))
        os._exit(0)  # the parent has died or has no more work: leave at once, the last complete epoch is on disk

    def send(event: Event) -> None:
        print(json.dumps(event_to_json(event)), file=events)

    threading.Thread(target=read_tasks, daemon=True).start()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    kept = Kept()
    while True:
        send(do_task(tasks.get(), kept, lambda done, total, what: send(Step(done, total, what))))


def do_task(task: Task, kept: Kept, progress: Progress) -> End:
    """Do one task and return how it ended. Errors are returned too: one failed run must not stop the others."""
    try:
        _import_libraries()
        end = _train_or_cache(task, kept, progress)
    except Exception as error:
        expected = isinstance(error, XaituneError)
        end = End("failed", str(error) if expected else f"{type(error).__name__}: {error}")
    _free_memory()
    return dataclasses.replace(end, memory=own_memory())


@functools.cache
def _import_libraries() -> None:
    """Import what every task needs, and exempt it from garbage collection, which would take a quarter of a second."""
    import xaitune.training.train  # noqa: F401

    gc.collect()
    gc.freeze()


def _free_memory() -> None:
    """Free what the last task has left in reference cycles, such as the optimizer, and give the memory back."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc keeps freed memory unless asked to return it
        ctypes.CDLL(None).malloc_trim(0)


def own_memory() -> int:
    """Bytes of memory that belong to this process alone, without mapped files; 0 if the system does not report it."""
    try:
        _, resident, shared = Path("/proc/self/statm").read_text().split()[:3]
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def _train_or_cache(task: Task, kept: Kept, progress: Progress) -> End:
    """Train the task's run, or compute its frozen features."""
    from xaitune.data.dataset import ImageData
    from xaitune.training.train import train_until

    if task.data not in kept.images:
        kept.images.clear()
        kept.images[task.data] = ImageData.from_config(task.data)
    data = kept.images[task.data]
    if data.fingerprint != task.fingerprint:
        raise DataError("The images have changed since the sweep began. Start a new sweep with another --name.")
    if not task.is_run:
        _compute_features(task, data, progress)
        return End("finished")
    run = train_until(
        data,
        task.train,
        task.pause,
        name=task.name,
        runs_dir=task.runs_dir,
        cache_dir=task.cache_dir,
        cache_gb=task.cache_gb,
        progress=progress,
        networks=kept.networks,
        tracking=task.tracking,
    )
    return End(run.state if run else "paused")


def _compute_features(task: Task, data: Any, progress: Progress) -> None:
    """Compute and cache the frozen features at the task's depths."""
    from xaitune.models.precision import resolve_precision
    from xaitune.models.weights import load_backbone
    from xaitune.training.features import FeatureCache
    from xaitune.training.network import build_for

    config = task.train
    if config.from_scratch:  # nothing is frozen
        return
    model = build_for(data, config, load_backbone(config.weights, config.architecture))
    cache = FeatureCache(Path(task.cache_dir), task.cache_gb)
    cache.get(model, data, task.depths, resolve_precision(config.precision)[0], progress)


if __name__ == "__main__":
    main()
