"""The environment of a run: usable CPU cores, the processor, memory, git commit, current time."""

import contextlib
import datetime
import os
import platform
import subprocess
from pathlib import Path

THREADS = "XAITUNE_THREADS"  # the environment variable that limits the number of threads of this process
HALF_UNITS = ("amx_bf16", "avx512_bf16")  # flags of processors that compute in bfloat16 themselves


def usable_cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_threads() -> int:
    """Number of threads to compute with: XAITUNE_THREADS, else the usable cores."""
    return int(os.environ.get(THREADS, usable_cores()))


def thread_limits(threads: int) -> dict[str, str]:
    """The environment of a process beside others: it, and the BLAS libraries in it, compute with so many threads.

    BLAS takes all cores otherwise, and its threads wait for each other by spinning: two fits of a linear head at a time took
    7 times as long with 16 threads each on 2 cores.
    """
    return dict.fromkeys((THREADS, "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), str(threads))


def half_units() -> list[str]:
    """The processor's units for bfloat16, by their flags in Linux; [] for none, and where it is not known."""
    line = next((row for row in _read("/proc/cpuinfo").splitlines() if row.startswith("flags")), "")
    return sorted(set(line.partition(":")[2].split()) & set(HALF_UNITS))


def processor_name() -> str:
    """The processor's name, as the operating system gives it."""
    for row in _read("/proc/cpuinfo").splitlines():
        if row.startswith("model name"):
            return row.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory() -> tuple[int, int] | None:
    """Bytes of memory that are (in all, available), or None where the system does not say."""
    found = {}
    for row in _read("/proc/meminfo").splitlines():
        name, _, rest = row.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            found[name] = int(rest.split()[0]) * 1024
    return (found["MemTotal"], found["MemAvailable"]) if len(found) == 2 else None


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(encoding="utf-8")
    return ""


def git_commit() -> str | None:
    """The commit checked out in the current folder, or None if there is no repository."""
    try:
        result = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


def now() -> str:
    """The current time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
