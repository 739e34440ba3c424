"""The local engine: worker processes that do tasks side by side, each with its share of the processor's threads."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed

from xaitune._machine import usable_cores
from xaitune.comparison.engines.task import End, OnEnd, OnStep, Task, event_from_json
from xaitune.errors import RunError

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

    def do(self, task: Task, on_step: OnStep) -> End:
        """Send a task and pass on its steps; returns how it ended. Raises RunError if the process dies."""
        assert self.process.stdin
        assert self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(task.to_json()), file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if not line.endswith("\n"):
                break  # it died while it wrote
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
        """Whether its memory has grown past the bound since its first run."""
        return bool(self.first_memory) and self.memory > GROWTH * self.first_memory

    def _cause_of_death(self) -> str:
        """How the process ended, in words."""
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

    def do(self, task: Task, on_step: OnStep) -> End:
        """Do a task, once more where its process dies."""
        try:
            return self._attempt(task, on_step)
        except (RunError, OSError):
            if self.over:
                return End("failed", "the sweep was ended")
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


def run_local(first: list[Task], tasks: list[Task], workers: int, on_step: OnStep, on_end: OnEnd) -> None:
    """Do `first` one after another in one worker, then `tasks` side by side in `workers` processes.

    `on_step` receives the steps of each task, from any thread; `on_end` the end of each, in the caller's thread. A
    task whose process dies is tried once more in a new one; what still fails ends as 'failed', and the others go on. A
    worker whose memory has grown by half since its first run is replaced after the run in hand. However this call ends,
    no worker outlives it.
    """
    crew = _Crew(max(usable_cores() // workers, 1))
    pool = ThreadPoolExecutor(workers)
    try:
        for task in first:
            on_end(task, crew.do(task, on_step))
        waiting = {pool.submit(crew.do, task, on_step): task for task in tasks}
        for future in as_completed(waiting):
            on_end(waiting[future], future.result())
    finally:
        crew.end()
        pool.shutdown(wait=True, cancel_futures=True)
