"""The local engine: worker processes that do tasks side by side, each with its share of the processor's threads."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import SimpleQueue
from typing import Any

from xaitune.errors import RunError

Task = dict[str, Any]
Report = Callable[[Task, dict[str, Any]], None]


class _Worker:
    """One `python -m xaitune._worker`; closing its standard input ends it."""

    def __init__(self) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "xaitune._worker"],
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
            event = json.loads(line)
            if event["event"] != "progress":
                return event
            report(task, event)
        code = self.process.wait()
        self.errors.seek(0)
        tail = self.errors.read().decode(errors="replace").strip().splitlines()[-1:]
        raise RunError(f"the worker process ended with status {code}{': ' + tail[0] if tail else ''}")

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]


@contextlib.contextmanager
def _workers(count: int) -> Iterator[tuple[SimpleQueue[_Worker], list[_Worker]]]:
    """A queue of idle workers, and a list of all workers, which are ended on leaving."""
    idle: SimpleQueue[_Worker] = SimpleQueue()
    made = [_Worker() for _ in range(count)]
    for worker in made:
        idle.put(worker)
    try:
        yield idle, made
    finally:
        for worker in made:
            worker.close()


def run_local(
    first: list[Task], tasks: list[Task], workers: int, report: Report, done: Callable[[Task, dict[str, Any]], None]
) -> None:
    """Do `first` one after another in one worker, then `tasks` side by side in `workers` processes.

    `report(task, event)` receives progress, `done(task, event)` each end. A run whose process dies is tried once more
    in a new one; what still fails is handed to `done` as 'failed', and the others go on.
    """
    threads = max((os.cpu_count() or 1) // workers, 1)
    with _workers(workers) as (idle, made):

        def attempt(task: Task) -> dict[str, Any]:
            worker = idle.get()
            try:
                return worker.do({**task, "threads": threads}, report)
            except RunError as error:
                worker.close()
                worker = _Worker()
                made.append(worker)
                return {"event": "died", "error": str(error)}
            finally:
                idle.put(worker)

        def work(task: Task) -> dict[str, Any]:
            answer = attempt(task)
            if answer["event"] == "died":
                answer = attempt(task)
            return {**answer, "event": "failed"} if answer["event"] == "died" else answer

        for task in first:
            done(task, work(task))
        pool = ThreadPoolExecutor(workers)
        waiting = {pool.submit(work, task): task for task in tasks}
        try:
            for future in as_completed(waiting):
                done(waiting[future], future.result())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
