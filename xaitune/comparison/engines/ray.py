"""The Ray engine: the local engine's tasks as Ray tasks, on a cluster or on this machine.

Every machine of the cluster needs xaitune and a shared file system that holds images, weights and run folders under the
same paths. Its locks must hold between machines: those of NFS 4 and of Lustre with `flock` do, those of an object store
do not. The folders are the same as the local engine's, so either engine can resume what the other left unfinished.
"""

import contextlib
import dataclasses
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

from xaitune._machine import thread_limits
from xaitune._progress import Notes
from xaitune.comparison.engines.task import End, OnEnd, OnStep, Step, Task, in_order
from xaitune.comparison.engines.worker import Kept, do_task
from xaitune.config.choices import NAMED_WEIGHTS
from xaitune.config.settings import replace_fields
from xaitune.errors import ConfigError, RunError

CPUS = 2  # per run, if a machine has that many: the number of threads that a local worker has by default
TASKS_PER_PROCESS = 8  # then a new process replaces it, so that its memory cannot grow without limit
POLL_SECONDS = 0.5
CONNECT_SECONDS = 10
INHERITED = ("KERAS_BACKEND",)  # environment variables that the tasks take over from this process
KEPT = Kept()  # what a Ray process keeps for its next task


class _Board:
    """A Ray actor that holds the latest step of every run until it is read."""

    def __init__(self) -> None:
        self.latest: dict[str, Step] = {}

    def put(self, name: str, step: Step) -> None:
        """Record the latest step of a run."""
        self.latest[name] = step

    def take(self) -> dict[str, Step]:
        """Run name -> latest step, for the steps since the last call."""
        latest, self.latest = self.latest, {}
        return latest


def _ray_task(task: Task, board: Any) -> End:
    """Do a task in a process that Ray started, as the local engine's worker would."""
    return do_task(task, KEPT, lambda done, total, what: board.put.remote(task.name, Step(done, total, what)))


def run_ray(
    tasks: list[Task],
    workers: int | None,
    on_step: OnStep,
    on_end: OnEnd,
    *,
    address: str | None = None,
    cpus: int | None = None,
    gpus: float | None = None,
    notes: Notes | None = None,
) -> None:
    """`run_local` on Ray: does `tasks` and those that `on_end` returns, at most `workers` of them in parallel.

    `address` is that of a running cluster. None means RAY_ADDRESS, else the cluster that runs on this machine, else a
    new one here that ends with the call. Each task takes `cpus` (also its number of threads; by default 2, or 1 if no
    machine has 2) and `gpus`. A task whose process dies is tried once more. However this call ends, its tasks end too.
    Raises ConfigError if Ray is missing or no machine has enough CPUs and GPUs for a task, RunError if the cluster
    cannot be reached.
    """
    ray = _import_ray()
    connected_here = not ray.is_initialized()
    if connected_here:
        _connect(ray, address)
    pending: dict[Any, Task] = {}
    try:
        cpus, gpus, note = _task_resources(ray, cpus, gpus or 0)
        if notes:
            notes(note)
        board = ray.remote(num_cpus=0)(_Board).remote()
        environment = thread_limits(cpus) | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        environment |= {name: os.environ[name] for name in INHERITED if name in os.environ}
        remote = ray.remote(
            num_cpus=cpus,
            num_gpus=gpus,
            max_retries=1,
            max_calls=TASKS_PER_PROCESS,
            runtime_env={"env_vars": environment},
        )(_ray_task)
        todo = list(tasks)
        while todo or pending:
            while todo and (workers is None or len(pending) < workers):
                task = todo.pop(0)
                pending[remote.remote(_with_absolute_paths(task), board)] = task
            ended, _ = ray.wait(list(pending), timeout=POLL_SECONDS)
            _pass_on_steps(ray, board, pending, on_step)
            for reference in ended:
                todo = in_order([*on_end(pending.pop(reference), _end_of(ray, reference)), *todo])
    finally:
        # The tasks end with this connection. To cancel one that is just finishing may end this process
        # (ray-project/ray#54798).
        if connected_here:
            ray.shutdown()
        else:
            for reference in pending:
                with contextlib.suppress(Exception):
                    ray.cancel(reference, force=True)


def _import_ray() -> Any:
    """The ray module, with its usage reports switched off. Raises ConfigError if Ray is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError("engine ray needs Ray. Install it with: pip install 'xaitune[ray]'.") from None
    return ray


def check_ray(address: str | None) -> None:
    """Check Ray before any work starts: ConfigError if it is missing, RunError if nothing answers at the address."""
    _import_ray()
    try:
        _require_answer(address or os.environ.get("RAY_ADDRESS"))
    except OSError as error:
        raise _unreachable(address, error) from None


def _unreachable(address: str | None, error: Exception) -> RunError:
    """The error for a cluster that cannot be reached."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    where = address or os.environ.get("RAY_ADDRESS") or "this machine"
    return RunError(f"Ray cannot be reached at {where} ({reason}). Start it, or set another --ray-address.")


def _connect(ray: Any, address: str | None) -> None:
    """Connect to a cluster, or start one on this machine. Raises RunError if it cannot be reached."""
    where = address or os.environ.get("RAY_ADDRESS")
    try:
        _require_answer(where)  # Ray itself would keep trying for minutes
        handler = signal.getsignal(signal.SIGTERM)
        ray.init(
            address=address, include_dashboard=None if where else False, log_to_driver=False, logging_level="error"
        )
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has put its own in its place
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise _unreachable(address, error) from None


def _require_answer(address: str | None) -> None:
    """Raise OSError if nothing answers at an address HOST:PORT or ray://HOST:PORT."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def _task_resources(ray: Any, cpus: int | None, gpus: float) -> tuple[int, float, str]:
    """CPUs and GPUs per task, and a note on them. Raises ConfigError if no machine has enough: Ray would wait forever."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    largest = max((int(m.get("CPU", 0)) for m in machines), default=0)
    wanted = cpus or min(CPUS, max(largest, 1))
    if not any(m.get("CPU", 0) >= wanted and m.get("GPU", 0) >= gpus for m in machines):
        shown = "; ".join(f"{m.get('CPU', 0):g} CPUs, {m.get('GPU', 0):g} GPUs" for m in machines)
        raise ConfigError(
            f"No machine of the Ray cluster has {wanted} CPUs and {gpus:g} GPUs for a run (they have: {shown}). "
            "Lower --run-cpus or --run-gpus."
        )
    total = sum(m.get("CPU", 0) for m in machines)
    return wanted, gpus, f"Ray: {len(machines)} machines, {total:g} CPUs; {wanted} CPUs and {gpus:g} GPUs per run"


def _with_absolute_paths(task: Task) -> Task:
    """The task with absolute paths: a Ray process has its own current folder."""

    def absolute(value: Any) -> Any:
        return str(Path(value).absolute()) if value and Path(value).exists() else value

    paths = {key: absolute(getattr(task.data, key)) for key in ("path", "masks", "groups", "label_fixes")}
    weights = task.train.weights
    train = replace_fields(task.train, {"weights": weights if weights in NAMED_WEIGHTS else absolute(weights)})
    return dataclasses.replace(task, data=replace_fields(task.data, paths), train=train)


def _pass_on_steps(ray: Any, board: Any, pending: dict[Any, Task], on_step: OnStep) -> None:
    """Pass new steps on to `on_step`; if the board dies with its machine, only the progress stops."""
    with contextlib.suppress(ray.exceptions.RayError):
        latest = ray.get(board.take.remote(), timeout=10)
        for task in list(pending.values()):
            if task.name in latest:
                on_step(task, latest[task.name])


def _end_of(ray: Any, reference: Any) -> End:
    """How a task ended; it has failed if its process died twice or its machine lacks something."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return End("failed", f"the Ray task failed: {type(error.cause).__name__}: {error.cause}")
    except ray.exceptions.RayError as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        return End("failed", f"its process died: {type(error).__name__}: {reason}")
