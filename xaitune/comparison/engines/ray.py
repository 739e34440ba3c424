"""The Ray engine: the local engine's tasks as Ray tasks, on a cluster or on this machine.

Every machine of the cluster needs xaitune, and one file system that all share: images, weights and run folders stand
there under the same paths, and its locks must hold between machines (NFS 4 and Lustre with `flock` do; an object store
does not). The folders are the same as the local engine's, so either goes on with what the other left.
"""

import contextlib
import dataclasses
import os
import socket
from pathlib import Path
from typing import Any

from xaitune._progress import Notes
from xaitune.comparison.engines.task import End, OnEnd, OnStep, Step, Task
from xaitune.comparison.engines.worker import Images, do_task
from xaitune.config.choices import NAMED_WEIGHTS
from xaitune.config.schema import replace_fields
from xaitune.errors import ConfigError, RunError

CPUS = 2  # a run, where a machine has as many: as many threads as the local engine's worker has by default
CALLS = 8  # tasks that a process does before a new one takes its place: its memory cannot grow for ever
POLL_SECONDS = 0.5
CONNECT_SECONDS = 10
PASSED_ON = ("KERAS_BACKEND",)  # of this command's environment to the tasks
IMAGES: Images = {}  # of a Ray process, kept from task to task


class _Board:
    """A Ray actor that holds the newest progress of every run, until it is read."""

    def __init__(self) -> None:
        self.newest: dict[str, Step] = {}

    def put(self, name: str, step: Step) -> None:
        self.newest[name] = step

    def take(self) -> dict[str, Step]:
        newest, self.newest = self.newest, {}
        return newest


def _do(task: Task, board: Any) -> End:
    """One task, in a process that Ray started: what the local engine's worker does with it."""
    return do_task(task, IMAGES, lambda done, total, what: board.put.remote(task.name, Step(done, total, what)))


def run_ray(
    first: list[Task],
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
    """`engine.run_local` on Ray: `first` one after another, then `tasks`, at most `workers` of them at a time.

    `address` is that of a running cluster; None takes RAY_ADDRESS, the cluster that runs on this machine, or starts
    one here for the time of the call. Each task takes `cpus` (also its threads; by default 2, or 1 where no machine has
    2) and `gpus`. A task whose process dies is tried once more. However this call ends, its tasks end too. Raises
    ConfigError where Ray is missing or no machine has what a task takes.
    """
    ray = _ray()
    mine = not ray.is_initialized()
    if mine:
        _connect(ray, address)
    waiting: dict[Any, Task] = {}
    try:
        cpus, gpus, note = _fitting(ray, cpus, gpus or 0)
        if notes:
            notes(note)
        board = ray.remote(num_cpus=0)(_Board).remote()
        environment = {"XAITUNE_THREADS": str(cpus), "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        remote = ray.remote(
            num_cpus=cpus, num_gpus=gpus, max_retries=1, max_calls=CALLS, runtime_env={"env_vars": environment}
        )(_do)
        for part, at_once in (*((([task], 1)) for task in first), (tasks, workers or len(tasks))):
            todo = list(part)
            while todo or waiting:
                while todo and len(waiting) < at_once:
                    task = todo.pop(0)
                    waiting[remote.remote(_absolute(task), board)] = task
                ended, _ = ray.wait(list(waiting), timeout=POLL_SECONDS)
                _pass_on_steps(ray, board, waiting, on_step)
                for reference in ended:
                    on_end(waiting.pop(reference), _end_of(ray, reference))
    finally:
        for reference in waiting:
            with contextlib.suppress(Exception):
                ray.cancel(reference, force=True)
        if mine:
            ray.shutdown()


def _ray() -> Any:
    """The package, quiet and without its usage reports. Raises ConfigError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError("engine ray needs Ray. Install it with: pip install 'xaitune[ray]'.") from None
    return ray


def check_ray(address: str | None) -> None:
    """Raise ConfigError where Ray is missing, and RunError where nothing answers at the address: before any work."""
    _ray()
    try:
        _knock(address or os.environ.get("RAY_ADDRESS"))
    except OSError as error:
        raise _unreachable(address, error) from None


def _unreachable(address: str | None, error: Exception) -> RunError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    where = address or os.environ.get("RAY_ADDRESS") or "this machine"
    return RunError(f"Ray cannot be reached at {where} ({reason}). Start it, or give another --ray-address.")


def _connect(ray: Any, address: str | None) -> None:
    """Join a cluster, or start one on this machine. Raises RunError where it cannot be reached."""
    where = address or os.environ.get("RAY_ADDRESS")
    try:
        _knock(where)  # Ray itself would try for minutes
        ray.init(
            address=address, include_dashboard=None if where else False, log_to_driver=False, logging_level="error"
        )
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise _unreachable(address, error) from None


def _knock(address: str | None) -> None:
    """Raise OSError where nothing answers at an address HOST:PORT or ray://HOST:PORT."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def _fitting(ray: Any, cpus: int | None, gpus: float) -> tuple[int, float, str]:
    """CPUs and GPUs of a task, and both in words. Raises ConfigError where no machine has as much: it would wait on."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = max((int(m.get("CPU", 0)) for m in machines), default=0)
    wanted = cpus or min(CPUS, max(most, 1))
    if not any(m.get("CPU", 0) >= wanted and m.get("GPU", 0) >= gpus for m in machines):
        shown = "; ".join(f"{m.get('CPU', 0):g} CPUs, {m.get('GPU', 0):g} GPUs" for m in machines)
        raise ConfigError(
            f"No machine of the Ray cluster has {wanted} CPUs and {gpus:g} GPUs for a run (they have: {shown}). "
            "Give other --run-cpus and --run-gpus."
        )
    total = sum(m.get("CPU", 0) for m in machines)
    return wanted, gpus, f"Ray: {len(machines)} machines, {total:g} CPUs; {wanted} CPUs and {gpus:g} GPUs per run"


def _absolute(task: Task) -> Task:
    """A task whose paths hold in every folder: a Ray process has a current folder of its own."""

    def absolute(value: Any) -> Any:
        return str(Path(value).absolute()) if value and Path(value).exists() else value

    paths = {key: absolute(getattr(task.data, key)) for key in ("path", "masks", "groups")}
    weights = task.train.weights
    train = replace_fields(task.train, {"weights": weights if weights in NAMED_WEIGHTS else absolute(weights)})
    return dataclasses.replace(task, data=replace_fields(task.data, paths), train=train)


def _pass_on_steps(ray: Any, board: Any, waiting: dict[Any, Task], on_step: OnStep) -> None:
    """Pass on what is new; a board that died with its machine only ends the progress."""
    with contextlib.suppress(ray.exceptions.RayError):
        newest = ray.get(board.take.remote(), timeout=10)
        for task in list(waiting.values()):
            if task.name in newest:
                on_step(task, newest[task.name])


def _end_of(ray: Any, reference: Any) -> End:
    """How a task ended; a process that died twice, or a machine that lacks something, is a failed run."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return End("failed", f"Ray could not do it: {type(error.cause).__name__}: {error.cause}")
    except ray.exceptions.RayError as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        return End("failed", f"its process died: {type(error).__name__}: {reason}")
