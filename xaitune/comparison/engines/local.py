"""The local engine: worker processes that do tasks side by side, each with its share of the processor's threads."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from xaitune.config.schema import usable_cores
from xaitune.errors import RunError

Task = dict[str, Any]
Report = Callable[[Task, dict[str, Any]], None]
GROWTH = 1.5  # a worker that holds so many times what it held after its first run makes room for a new one


class _Worker:
    """One `python -m xaitune.comparison.engines.worker`; closing its standard input ends it."""

    def __init__(self, threads: int, card: str | None = None) -> None:
        self.card = card  # the graphics card that it sees; None: as this process does
        self.first_memory = self.memory = 0  # bytes after its first run, and after its last
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "XAITUNE_THREADS": str(threads)}
        if card is not None:
            environment |= {"CUDA_VISIBLE_DEVICES": card, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        # -P: a folder named xaitune in the current one must not be taken for the package.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "xaitune.comparison.engines.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            encoding="utf-8",
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then closes the workers
        )

    def do(self, task: Task, report: Report) -> dict[str, Any]:
        """Send a task and report its events; returns the last one. Raises RunError if the process dies."""
        assert self.process.stdin
        assert self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(task), file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if not line.endswith("\n"):
                break  # it died while it wrote
            event = json.loads(line)
            if event["event"] != "progress":
                self.memory = event.pop("memory", 0)
                if task["kind"] == "run":
                    self.first_memory = self.first_memory or self.memory
                return event
            report(task, event)
        raise RunError(self._last_words())

    @property
    def grown(self) -> bool:
        """Whether its memory has grown past the bound since its first run."""
        return bool(self.first_memory) and self.memory > GROWTH * self.first_memory

    def _last_words(self) -> str:
        """How the process ended."""
        code = self.process.wait()
        if code < 0:
            hint = " (did memory run out? Try fewer --workers)" if code == -signal.SIGKILL else ""
            return f"its process was ended by {signal.Signals(-code).name}{hint}"
        self.errors.seek(0)
        tail = self.errors.read().decode(errors="replace").strip().splitlines()[-1:]
        return f"its process ended with status {code}{': ' + tail[0] if tail else ''}"

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]


class _Crew:
    """The workers of one call: started on demand, ended together, and none started after that."""

    def __init__(self, threads: int) -> None:
        self.threads, self.cards = threads, graphics_cards()
        self.lock = threading.Lock()
        self.idle: list[_Worker] = []
        self.busy: set[_Worker] = set()
        self.over = False

    def take(self) -> _Worker:
        """An idle worker, or a new one. Raises RunError after `end`."""
        with self.lock:
            if self.over:
                raise RunError("the sweep was ended")
            worker = self.idle.pop() if self.idle else _Worker(self.threads, self._free_card())
            self.busy.add(worker)
            return worker

    def _free_card(self) -> str | None:
        """The card with the fewest workers."""
        held = [worker.card for worker in (*self.idle, *self.busy)]
        return min(self.cards, key=held.count) if self.cards else None

    def give_back(self, worker: _Worker, alive: bool) -> None:
        """Keep a worker for the next task; close one that died or has grown, so that a new one takes its place."""
        with self.lock:
            self.busy.discard(worker)
            if alive and not worker.grown and not self.over:
                self.idle.append(worker)
                return
        worker.close()

    def end(self) -> None:
        """End all processes, at once."""
        with self.lock:
            self.over = True
            workers = [*self.idle, *self.busy]
        for worker in workers:
            worker.process.kill()
        for worker in self.idle:
            worker.close()


def graphics_cards() -> list[str]:
    """The NVIDIA cards that this process may use, by CUDA_VISIBLE_DEVICES or as the driver lists them."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        try:
            listed = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
        except (OSError, subprocess.SubprocessError):
            return []
    return [card.strip() for card in listed.replace("\n", ",").split(",") if card.strip()]


def run_local(
    first: list[Task], tasks: list[Task], workers: int, report: Report, done: Callable[[Task, dict[str, Any]], None]
) -> None:
    """Do `first` one after another in one worker, then `tasks` side by side in `workers` processes.

    `report(task, event)` receives progress, from any thread; `done(task, event)` each end, in the caller's thread. A
    run whose process dies is tried once more in a new one; what still fails is handed to `done` as 'failed', and the
    others go on. A worker whose memory has grown by half since its first run is replaced after the run in hand. However
    this call ends, no worker outlives it.
    """
    crew = _Crew(max(usable_cores() // workers, 1))

    def attempt(task: Task) -> dict[str, Any]:
        worker, alive = crew.take(), False
        try:
            answer = worker.do(task, report)
            alive = True
            return answer
        finally:
            crew.give_back(worker, alive)

    def work(task: Task) -> dict[str, Any]:
        try:
            return attempt(task)
        except (RunError, OSError):
            if crew.over:
                return {"event": "failed", "error": "the sweep was ended"}
        try:
            return attempt(task)
        except (RunError, OSError) as error:
            return {"event": "failed", "error": str(error)}

    pool = ThreadPoolExecutor(workers)
    try:
        for task in first:
            done(task, work(task))
        waiting = {pool.submit(work, task): task for task in tasks}
        for future in as_completed(waiting):
            done(waiting[future], future.result())
    finally:
        crew.end()
        pool.shutdown(wait=True, cancel_futures=True)
