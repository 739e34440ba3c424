"""`python -m xaitune.comparison.engines.worker`: trains the runs that it is sent, one JSON line each, and answers in JSON lines.

It ends when its standard input closes, which is also what happens when its parent dies. A Ray task calls `answer`.
"""

import contextlib
import ctypes
import gc
import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from xaitune.errors import DataError, XaituneError


def main() -> None:
    """Read tasks from standard input until it closes; answer on the first standard output."""
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    tasks: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            tasks.put(json.loads(line))
        os._exit(0)  # the parent is gone or has no more work: leave at once, the last whole epoch is on disk

    threading.Thread(target=listen, daemon=True).start()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    data: dict[str, Any] = {}

    def report(done: int, total: int, what: str) -> None:
        print(json.dumps({"event": "progress", "done": done, "total": total, "what": what}), file=answers)

    while True:
        print(json.dumps(answer(tasks.get(), data, report)), file=answers)


def answer(task: dict[str, Any], data: dict[str, Any], report: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Do one task and say how it ended, an error too: one failed run must not end the others.

    `data` keeps the images between calls. The answer carries the memory that this process then holds, in bytes.
    """
    try:
        made = _work(task, data, report)
    except Exception as error:
        ours = isinstance(error, XaituneError)
        made = {"event": "failed", "error": str(error) if ours else f"{type(error).__name__}: {error}"}
    _forget_models()
    return made | {"memory": own_memory()}


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


def _work(task: dict[str, Any], data: dict[str, Any], progress: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Do one task: fill the frozen features of a data set, or one run."""
    from xaitune.config.schema import DataConfig, TrainConfig
    from xaitune.data.dataset import ImageData
    from xaitune.models import vgg
    from xaitune.models.backend import resolve_precision
    from xaitune.training import train as training
    from xaitune.training.features import FeatureCache

    key = json.dumps(task["data"], sort_keys=True)
    if key not in data:
        data.clear()
        data[key] = ImageData.from_config(DataConfig(**task["data"]))
    images, config = data[key], TrainConfig(**task["train"])
    if images.fingerprint != task["fingerprint"]:
        raise DataError("The images have changed since the sweep began: start it again under another --name.")

    if task["kind"] == "features":
        model = vgg.build_vgg16(
            len(images.class_names),
            image_size=images.image_size,
            head=config.head,
            weights=config.weights,
            seed=config.seed,
        )
        cache = FeatureCache(task["cache_dir"], task["cache_gb"])
        cache.get(model, images, task["depths"], resolve_precision(config.precision)[0], progress)
        return {"event": "done", "state": "finished"}
    run = training.train_model(
        images,
        config,
        name=task["name"],
        runs_dir=task["runs_dir"],
        cache_dir=task["cache_dir"],
        cache_gb=task["cache_gb"],
        progress=progress,
    )
    return {"event": "done", "state": run.state, "score": run.score("validation")}


if __name__ == "__main__":
    main()
