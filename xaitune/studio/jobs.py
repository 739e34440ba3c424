"""Work that goes on while the page is used: LIME in a thread, trainings and advice as processes of their own."""

import contextlib
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from xaitune.errors import RunError, XaituneError
from xaitune.studio.catalogue import NotServed

LINES = 200  # of a command's output that are kept
KEPT = 30  # jobs that have ended
PATIENCE = 10.0  # seconds that a process has to end
PROGRESS = re.compile(r"^\w+: (?:(\d+) of (\d+)|(\d+)%)")  # as console._PlainProgress prints it

Report = Callable[[int, int], None]


class Busy(RunError):
    """A process is running already."""


class _Stopped(Exception):
    """The user has stopped the work."""


@dataclass(eq=False)
class BackgroundJob:
    """One piece of work. `state`: 'running', 'finished', 'failed' or 'stopped'; `text`: why it failed."""

    number: int
    title: str
    state: str = "running"
    done: int = 0
    total: int = 0
    text: str = ""
    result: Any = None
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES))
    process: subprocess.Popen[str] | None = None
    stopping: bool = False

    def to_json(self, whole: bool = False) -> dict[str, Any]:
        """What the page shows; `whole` with the result."""
        shown = {name: getattr(self, name) for name in ("number", "title", "state", "done", "total", "text")}
        return (
            shown
            | {"lines": list(self.lines), "command": self.process is not None}
            | ({"result": self.result} if whole else {})
        )


class Jobs:
    """The work that was started, by number."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._jobs: dict[int, BackgroundJob] = {}

    def start_thread(self, title: str, work: Callable[[Report], Any]) -> BackgroundJob:
        """Do `work(report)` in a thread; what it returns is the result."""
        job = self._add(title)
        threading.Thread(target=_do, args=(job, work), name=title, daemon=True).start()
        return job

    def start_command(self, title: str, arguments: Sequence[str]) -> BackgroundJob:
        """Run `xaitune ARGUMENTS` as a process. Raises Busy while another one runs."""
        with self._lock:
            if any(job.process and job.state == "running" for job in self._jobs.values()):
                raise Busy("A training or an advice is running. Wait for it, or stop it.")
            process = _process(arguments)
            job = self._add_locked(title)
            job.process = process
        job.lines.append(f"$ {shlex.join(['xaitune', *arguments])}")
        threading.Thread(target=_follow, args=(job, process), name=title, daemon=True).start()
        return job

    def get(self, number: int) -> BackgroundJob:
        """The job of that number. Raises NotServed."""
        with self._lock:
            if number not in self._jobs:
                raise NotServed(f"There is no job {number}.")
            return self._jobs[number]

    def commands(self) -> list[dict[str, Any]]:
        """The trainings and advice, the newest first."""
        with self._lock:
            return [job.to_json() for job in reversed(self._jobs.values()) if job.process]

    def stop(self, number: int) -> BackgroundJob:
        """End a job: a thread at its next report, a process at once; a training is then resumed by the same command."""
        job = self.get(number)
        job.stopping = True
        if job.process:
            _end(job.process)
        return job

    def stop_all(self) -> list[str]:
        """End everything that runs; returns the titles of the processes that were ended."""
        with self._lock:
            running = [job for job in self._jobs.values() if job.state == "running"]
        for job in running:
            self.stop(job.number)
        return [job.title for job in running if job.process]

    def _add(self, title: str) -> BackgroundJob:
        with self._lock:
            return self._add_locked(title)

    def _add_locked(self, title: str) -> BackgroundJob:
        ended = [number for number, job in self._jobs.items() if job.state != "running"]
        for number in ended[: max(0, len(ended) - KEPT)]:
            del self._jobs[number]
        job = BackgroundJob(next(self._numbers), title)
        self._jobs[job.number] = job
        return job


def _do(job: BackgroundJob, work: Callable[[Report], Any]) -> None:
    """Do the work of a thread and say how it ended."""

    def report(done: int, total: int) -> None:
        if job.stopping:
            raise _Stopped
        job.done, job.total = done, total

    try:
        job.result = work(report)
        job.state = "finished"
    except _Stopped:
        job.state = "stopped"
    except Exception as error:  # whatever it is, the page must say so: nobody waits for the thread
        job.text = str(error) if isinstance(error, XaituneError) else f"{type(error).__name__}: {error}"
        job.state = "failed"


def _process(arguments: Sequence[str]) -> "subprocess.Popen[str]":
    """`xaitune ARGUMENTS`, its output and errors in one stream."""
    return subprocess.Popen(
        # -P: a folder named xaitune in the current folder must not be imported in place of the package.
        [sys.executable, "-P", "-m", "xaitune", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
        start_new_session=True,  # Ctrl-C reaches only the studio, which then ends it
    )


def _follow(job: BackgroundJob, process: "subprocess.Popen[str]") -> None:
    """Read a process's lines until it ends."""
    assert process.stdout
    for line in process.stdout:
        job.lines.append(line.rstrip())
        if found := PROGRESS.match(line):
            done, total, percent = found.groups()
            job.done, job.total = (int(percent), 100) if percent else (int(done), int(total))
    status = process.wait()
    if status:
        job.text = next(
            (line for line in reversed(job.lines) if line.startswith("Error: ")), f"It ended with status {status}."
        )
    job.state = "stopped" if job.stopping else "failed" if status else "finished"


def _end(process: "subprocess.Popen[str]") -> None:
    """End a process and all that it started, unless it has ended."""
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
