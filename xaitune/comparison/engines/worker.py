"""`python -m xaitune.comparison.engines.worker`: does the tasks it is sent, a JSON line each, and answers in JSON lines.

It ends when its standard input closes, which is also what happens when its parent dies. A Ray task calls `do_task`.
"""

import contextlib
import ctypes
import dataclasses
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

Images = dict[Any, Any]  # DataConfig -> ImageData: at most one, kept from task to task


def main() -> None:
    """Read tasks from standard input until it closes; answer on the first standard output."""
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    tasks: SimpleQueue[Task] = SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            tasks.put(Task.from_json(json.loads(line)))
        os._exit(0)  # the parent is gone or has no more work: leave at once, the last whole epoch is on disk

    def send(event: Event) -> None:
        print(json.dumps(event_to_json(event)), file=answers)

    threading.Thread(target=listen, daemon=True).start()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    images: Images = {}
    while True:
        send(do_task(tasks.get(), images, lambda done, total, what: send(Step(done, total, what))))


def do_task(task: Task, images: Images, progress: Progress) -> End:
    """Do one task and say how it ended, an error too: one failed run must not end the others.

    `images` keeps the data set between calls.
    """
    try:
        end = _work(task, images, progress)
    except Exception as error:
        ours = isinstance(error, XaituneError)
        end = End("failed", str(error) if ours else f"{type(error).__name__}: {error}")
    _forget_models()
    return dataclasses.replace(end, memory=own_memory())


def _forget_models() -> None:
    """Free the models of the last task: they stand in circles, and Keras remembers their names."""
    if "keras" in sys.modules:
        from xaitune.models.backend import keras

        keras.backend.clear_session()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc keeps what is freed, unless it is told to give it back
        ctypes.CDLL(None).malloc_trim(0)


def own_memory() -> int:
    """Bytes that this process holds for itself, without the files that it maps; 0 where the system does not tell."""
    try:
        _, resident, shared = Path("/proc/self/statm").read_text().split()[:3]
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def _work(task: Task, images: Images, progress: Progress) -> End:
    from xaitune.data.dataset import ImageData
    from xaitune.training.train import train_model

    if task.data not in images:
        images.clear()
        images[task.data] = ImageData.from_config(task.data)
    data = images[task.data]
    if data.fingerprint != task.fingerprint:
        raise DataError("The images have changed since the sweep began: start it again under another --name.")
    if not task.is_run:
        _compute_features(task, data, progress)
        return End("finished")
    run = train_model(
        data,
        task.train,
        name=task.name,
        runs_dir=task.runs_dir,
        cache_dir=task.cache_dir,
        cache_gb=task.cache_gb,
        progress=progress,
    )
    return End(run.state)


def _compute_features(task: Task, data: Any, progress: Progress) -> None:
    from xaitune.models.precision import resolve_precision
    from xaitune.models.vgg import build_vgg16
    from xaitune.training.features import FeatureCache

    config = task.train
    model = build_vgg16(
        len(data.class_names),
        image_size=data.image_size,
        head=config.head,
        weights=config.weights,
        seed=config.seed,
    )
    cache = FeatureCache(Path(task.cache_dir), task.cache_gb)
    cache.get(model, data, task.depths, resolve_precision(config.precision)[0], progress)


if __name__ == "__main__":
    main()
