"""Drive the command line as a user would: in this process, which is quick, or in one of its own."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from xaitune.cli import app as cli

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell's background jobs do, and what they start
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class Answer:
    """What a command gave back."""

    status: int
    out: str
    err: str

    @property
    def json(self):
        """The one object on stdout, as strict JSON."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out, parse_constant=lambda name: 1 / 0)

    @property
    def error(self):
        """The last lines of stderr from 'Error:' on."""
        assert "Error: " in self.err, self.err
        return self.err[self.err.index("Error: ") :].strip()


def xaitune(folder, *arguments):
    """`xaitune ARGUMENTS` in `folder`, in this process."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["xaitune", *map(str, arguments)]
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main()
                raise AssertionError("main returned without an exit status")
            except SystemExit as end:
                status = end.code
    finally:
        sys.argv = argv
    return Answer(status, out.getvalue(), err.getvalue())


def start(folder, *arguments, **options):
    """`xaitune ARGUMENTS` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "xaitune", *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        **options,
    )


def finish(process, timeout=240):
    """Wait for a process of `start`."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            process.kill()
    return Answer(process.returncode, out, err)


def children(pid):
    """The processes that a process started and that still run (Linux)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


def alive(pid):
    """Whether a process still runs."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def files(folder):
    """Every file below a folder, but for locks and kept features, with its content."""
    found = (p for p in Path(folder).rglob("*") if p.is_file() and p.name != ".lock" and "cache" not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(found)}


def wait_for(condition, seconds=120):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)
    return found


def results(folder):
    """predictions.csv of every run, as bytes, and its history but for the seconds."""
    from xaitune.comparison.table import load_sweep

    table = load_sweep(folder)
    histories = {name: table.history(name).drop(columns="seconds").to_csv() for name in table.runs["name"]}
    return {n: ((folder / n / "predictions.csv").read_bytes(), histories[n]) for n in table.runs["name"]}


def python(script, *arguments, folder=None, **environment):
    """What `script` prints, run by Python in a process of its own; it must end well."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        cwd=folder,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
