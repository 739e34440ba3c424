"""The local engine: worker processes that do tasks in parallel, each with its share of the processor's threads."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from xaitune._machine import thread_limits, usable_cores
from xaitune.comparison.engines.task import End, OnEnd, OnStep, Task, event_from_json, in_order
from xaitune.errors import RunError

GROWTH = 1.5  # a worker is replaced when its memory exceeds this multiple of its memory after its first run
STOPPED = "the sweep was stopped"


class _Worker:
    """One process `python -m xaitune.comparison.engines.worker`; closing its standard input ends it."""

    def __init__(self, threads: int, card: str | None = None) -> None:
        self.card = card  # the one graphics card that it may use; None: those that this process may use
        self.first_memory = self.memory = 0  # bytes after its first run, and after its last task
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        environment = os.environ | thread_limits(threads) | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        if card is not None:
            environment |= {"CUDA_VISIBLE_DEVICES": card, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        # -P: a folder named xaitune in the current folder must not be imported in place of the package.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "xaitune.comparison.engines.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            encoding="utf-8",
            env=environment,
            start_new_session=True,  # Ctrl-C reaches only the parent, which then closes the workers
        )

    def do(self, task: Task, on_step: OnStep) -> End:
        """Send a task, pass on its steps, and return how it ended. Raises RunError if the process dies."""
        assert self.process.stdin
        assert self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(task.to_json()), file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if not line.endswith("\n"):
                break  # it died while writing
            event = event_from_json(json.loads(line))
            if isinstance(event, End):
                self.memory = event.memory
                if task.is_run:
                    self.first_memory = self.first_memory or self.memory
                return event
            on_step(task, event)
        raise RunError(self._cause_of_death())

    @property
    def grown(self) -> bool:
        """Whether its memory has grown beyond the limit since its first run."""
        return bool(self.first_memory) and self.memory > GROWTH * self.first_memory

    def _cause_of_death(self) -> str:
        """How the process ended, in words."""
        code = self.process.wait()
        if code < 0:
            hint = " (out of memory? Try fewer --workers)" if code == -signal.SIGKILL else ""
            return f"its process was killed by {signal.Signals(-code).name}{hint}"
        self.errors.seek(0)
        last_line = self.errors.read().decode(errors="replace").strip().splitlines()[-1:]
        return f"its process ended with status {code}{': ' + last_line[0] if last_line else ''}"

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]


class _WorkerPool:
    """The workers of one `run_local`: started on demand, stopped together, and none started after that."""

    def __init__(self, threads: int) -> None:
        self.threads, self.cards = threads, graphics_cards()
        self.lock = threading.Lock()
        self.idle: list[_Worker] = []
        self.busy: set[_Worker] = set()
        self.stopped = False

    def do(self, task: Task, on_step: OnStep) -> End:
        """Do a task, and try it once more if its process dies."""
        try:
            return self._attempt(task, on_step)
        except (RunError, OSError):
            if self.stopped:
                return End("failed", STOPPED)
        try:
            return self._attempt(task, on_step)
        except (RunError, OSError) as error:
            return End("failed", str(error))

    def _attempt(self, task: Task, on_step: OnStep) -> End:
        worker, alive = self.take(), False
        try:
            end = worker.do(task, on_step)
            alive = True
            return end
        finally:
            self.give_back(worker, alive)

    def take(self) -> _Worker:
        """An idle worker, or a new one. Raises RunError after `stop`."""
        with self.lock:
            if self.stopped:
                raise RunError(STOPPED)
            worker = self.idle.pop() if self.idle else _Worker(self.threads, self._least_used_card())
            self.busy.add(worker)
            return worker

    def _least_used_card(self) -> str | None:
        """The graphics card with the fewest workers; None without cards."""
        used = [worker.card for worker in (*self.idle, *self.busy)]
        return min(self.cards, key=used.count) if self.cards else None

    def give_back(self, worker: _Worker, alive: bool) -> None:
        """Keep a worker for the next task; close one that died or has grown, so that a new one replaces it."""
        with self.lock:
            self.busy.discard(worker)
            if alive and not worker.grown and not self.stopped:
                self.idle.append(worker)
                return
        worker.close()

    def stop(self) -> None:
        """End all processes at once."""
        with self.lock:
            self.stopped = True
            workers = [*self.idle, *self.busy]
        for worker in workers:
            worker.process.kill()
        for worker in self.idle:
            worker.close()


def graphics_cards() -> list[str]:
    """The NVIDIA cards that this process may use, from CUDA_VISIBLE_DEVICES or as listed by the driver."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        try:
            listed = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
        except (OSError, subprocess.SubprocessError):
            return []
    return [card.strip() for card in listed.replace("\n", ",").split(",") if card.strip()]


def run_local(tasks: list[Task], workers: int, on_step: OnStep, on_end: OnEnd) -> None:
    """Do `tasks`, and those that `on_end` returns, in parallel in `workers` processes.

    `on_step` is called with the steps of each task, from any thread; `on_end` with the end of each, in the caller's
    thread. A task whose process dies is tried once more in a new one; if it fails again it ends as 'failed', and the
    other tasks continue. A worker whose memory has grown by half since its first run is replaced after its current run.
    However this call ends, no worker outlives it.
    """
    pool = _WorkerPool(max(usable_cores() // workers, 1))
    threads = ThreadPoolExecutor(workers)
    try:
        todo = list(tasks)
        pending: dict[Future[End], Task] = {}
        while todo or pending:
            while todo and len(pending) < workers:
                task = todo.pop(0)
                pending[threads.submit(pool.do, task, on_step)] = task
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                todo = in_order([*on_end(pending.pop(future), future.result()), *todo])
    finally:
        pool.stop()
        threads.shutdown(wait=True, cancel_futures=True)
