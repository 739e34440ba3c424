"""Kill a sweep at random moments, run the same command again, and compare the results with an undisturbed sweep's.

    python benchmarks/kills.py [--times 20] [--out benchmarks/results/kills.csv]

The sweep is `xaitune sweep-freeze` as a user gives it: 5 depths x 3 optimizers on generated images of 32x32, slim weights,
float32, two workers. Three accidents take turns: kill -9 of a worker; kill -9 of the parent; a full disk (a tmpfs is filled,
except for a small random rest, and emptied when the command has ended). The moment is drawn from --seed: a number of results
that must be there, and then a number of seconds. Afterwards every run must be there exactly once and equal the undisturbed
sweep's bit for bit: predictions.csv, metrics, model weights, and the history except for its seconds. No finished run may
have been trained again, and no stray file may be left. Line 0 of the table is a second undisturbed sweep.

The tmpfs needs root, or user namespaces (`unshare`); without either, the full disk is skipped with a message.
"""

import argparse
import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import h5py
import pandas as pd

from xaitune.demo.scans import make_demo_data

KINDS = ("worker", "parent", "disk")
FILES = {".lock", "config.json", "history.csv", "metadata.json", "model-card.md", "model.keras", "predictions.csv"}
FILES |= {"result.json", "mlflow.json"}  # the last one only with --mlflow
TMPFS_MB = 400
OPTIONS = ["--image-size=32x32", "--weights=slim", "--head-epochs=1", "--precision=float32"]


def command(name: str, data: Path, *options: str) -> list[str]:
    """A command of xaitune, as a user would give it."""
    where = [str(data / "images"), "--groups", str(data / "groups.csv"), "--masks", str(data / "masks")]
    return [sys.executable, "-P", "-m", "xaitune", name, *where, *OPTIONS, *options]


def names(args: argparse.Namespace) -> set[str]:
    """The names of the sweep's runs, and of the linear heads on frozen features."""
    cells = {f"freeze{k}-{o}-seed0" for k in args.depths.split(",") for o in args.optimizers.split(",")}
    return cells | {"frozen-all-blocks", "frozen-best-block"}


# ---- what a sweep leaves on disk


def contents(run: Path) -> dict[str, str]:
    """A digest of each result of a run that must be reproduced."""
    with (run / "history.csv").open(newline="") as file:
        history = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    result = json.loads((run / "result.json").read_text())
    weights = hashlib.sha256()
    with zipfile.ZipFile(run / "model.keras") as archive:
        arrays: dict[str, bytes] = {}
        with h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as file:

            def add_array(name: str, item: Any) -> None:
                if isinstance(item, h5py.Dataset):
                    arrays[name] = item[()].tobytes()

            file.visititems(add_array)
    for name in sorted(arrays):
        weights.update(name.encode() + arrays[name])
    return {
        "predictions": hashlib.sha256((run / "predictions.csv").read_bytes()).hexdigest(),
        "metrics": json.dumps([result["state"], result["metrics"]], sort_keys=True),
        "weights": weights.hexdigest(),
        "history": json.dumps(history),
    }


def finished(sweep: Path) -> dict[str, int]:
    """Run name -> time at which its result.json was written (ns)."""
    return {file.parent.name: file.stat().st_mtime_ns for file in sweep.glob("*/result.json")}


def leftovers(sweep: Path) -> list[str]:
    """Files that do not belong in a finished sweep."""
    known = {".lock", "config.json", "sweep.json", "sweep.csv", "check.json"}
    stray = [p.name for p in sweep.iterdir() if p.is_file() and p.name not in known]
    return stray + [f"{p.parent.name}/{p.name}" for p in sweep.glob("*/*") if p.name not in FILES]


def in_hand(sweep: Path) -> str:
    """The runs that have begun and are not finished, and whether they have a checkpoint."""
    begun = [file.parent for file in sorted(sweep.glob("*/config.json")) if not (file.parent / "result.json").is_file()]
    shown = [f"{p.name}{' (checkpoint)' if (p / 'checkpoint/state.npz').is_file() else ''}" for p in begun]
    return ", ".join(shown) or "none"


# ---- the accidents


def workers_of(pid: int) -> list[int]:
    """The process ids of a command's workers."""
    workers = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            is_worker = b"xaitune.comparison.engines.worker" in (stat.parent / "cmdline").read_bytes()
            if int(fields[1]) == pid and fields[0] != "Z" and is_worker:
                workers.append(int(stat.parent.name))
    return sorted(workers)


def fill(folder: Path, spare: int) -> Path:
    """Fill the disk except for `spare` bytes; returns the file that does it."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        for _ in range(20):
            try:
                os.posix_fallocate(file.fileno(), 0, max(shutil.disk_usage(folder).free - spare, 1))
                break
            except OSError as error:
                if error.errno != errno.ENOSPC:  # otherwise the sweep has written meanwhile, so less is free now
                    raise
    return ballast


@contextlib.contextmanager
def tmpfs(folder: Path) -> Any:
    """A small separate file system in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MB}m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def may_mount() -> bool:
    """Whether this process can mount a tmpfs."""
    probe = "d=$(mktemp -d) && mount -t tmpfs tmpfs $d && umount $d; e=$?; rmdir $d; exit $e"
    return subprocess.run(["sh", "-c", probe], capture_output=True, check=False).returncode == 0


# ---- one trial


class Sweep:
    """A sweep in its own folder, with a copy of the advice so that it is not made again.

    Making the advice fills the cache of frozen features, with other threads than a worker's and so with other last digits.
    """

    def __init__(self, folder: Path, call: list[str], advice: Path) -> None:
        self.folder, self.call, self.path = folder, call, folder / "runs/sweep"
        shutil.copytree(advice, folder / "runs/advice")

    def start(self) -> subprocess.Popen:
        """Start the command."""
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - not on the disk that is filled
        return subprocess.Popen(self.call, cwd=self.folder, stdout=self.log, stderr=self.log)

    def error(self) -> str:
        """The last error that the command printed."""
        self.log.seek(0)
        text = self.log.read().decode(errors="replace")
        return text[text.rindex("Error: ") :].strip() if "Error: " in text else ""

    def run(self) -> int:
        """Run the command to its end; returns its exit status."""
        return self.start().wait()


def wait_until(condition: Any, process: subprocess.Popen) -> bool:
    """Wait until the condition holds (True), or until the process ends before that (False)."""
    while not condition():
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    return True


def disturb(sweep: Sweep, kind: str, rng: random.Random, count: int, pace: tuple[float, float]) -> dict[str, Any]:
    """Start the sweep and cause the accident at a random moment; returns what was observed.

    `pace`: seconds until the first result of an undisturbed sweep, and between two results.
    """
    results, spare = rng.randrange(count), rng.choice([0, rng.randrange(8_000_000)])
    seconds, pick = rng.uniform(0, pace[results > 0]), rng.random()
    process, ballast = sweep.start(), None
    try:
        reached = wait_until(lambda: len(finished(sweep.path)) >= results, process)
        if reached and results == 0:
            reached = wait_until(lambda: workers_of(process.pid), process)
        time.sleep(seconds)
        before, at_work = finished(sweep.path), in_hand(sweep.path)
        workers = workers_of(process.pid)
        hit = reached and process.poll() is None and (kind == "disk" or bool(workers))
        if hit and kind == "worker":
            os.kill(workers[int(pick * len(workers))], signal.SIGKILL)
        elif hit and kind == "parent":
            process.kill()
        elif hit:
            ballast = fill(sweep.folder, spare)
        status = process.wait()
    finally:
        process.kill()
        if ballast:
            ballast.unlink()
    if hit and kind == "parent":
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.05)
        if any(Path(f"/proc/{pid}").exists() for pid in workers):
            raise RuntimeError("a worker outlived its parent")
    moment = f"{len(before)} results + {seconds:.1f} s"
    return {"moment": moment, "in hand": at_work, "hit": hit, "status": status, "before": before}


def trial(sweep: Sweep, kind: str, rng: random.Random, reference: dict[str, dict[str, str]], pace: Any) -> dict:
    """Cause one accident (or none), give the command again until it succeeds, and compare the results."""
    start = time.monotonic()
    if kind == "none":
        seen = {"moment": "", "in hand": "", "hit": True, "status": sweep.run(), "before": {}}
    else:
        seen = disturb(sweep, kind, rng, len(reference), pace)
    error, again, status = sweep.error(), 0, seen["status"]
    while status != 0 and again < 3:
        status, again = sweep.run(), again + 1
    if status:
        raise RuntimeError(f"the sweep did not succeed: {sweep.error()}")
    results = {p.name: contents(p) for p in (f.parent for f in sweep.path.glob("*/result.json"))}
    with (sweep.path / "sweep.csv").open(newline="") as file:
        rows = [row["name"] for row in csv.DictReader(file) if row["state"] == "finished"]
    differ = [f"{n}: {k}" for n in reference for k in reference[n] if results.get(n, {}).get(k) != reference[n][k]]
    after = finished(sweep.path)
    redone = [name for name, written in seen["before"].items() if after[name] != written]
    once = sorted(rows) == sorted(reference) == sorted(results) and not (sweep.folder / "runs/sweep-2").exists()
    stray = leftovers(sweep.path)
    return {
        "kind": kind,
        "moment": seen["moment"],
        "in hand": seen["in hand"],
        "hit": seen["hit"],
        "status": seen["status"],
        "error": error.replace(str(sweep.folder), "."),
        "again": again,
        "results": len(results),
        "each once": once,
        "equal": len(reference) - len({d.partition(":")[0] for d in differ}),
        "differ": "; ".join(differ),
        "trained twice": len(redone),
        "left over": "; ".join(stray),
        "ok": seen["hit"] and once and not differ and not redone and not stray,
        "seconds": round(time.monotonic() - start, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="number of accidents")
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of accidents, which take turns")
    parser.add_argument("--seed", type=int, default=0, help="random seed for the moments")
    parser.add_argument("--depths", default="1,2,3,4,5")
    parser.add_argument("--optimizers", default="sgd,momentum,nag")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--no-repeat", action="store_true", help="skip the second undisturbed sweep")
    parser.add_argument("--work", type=Path, help="folder to work in (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="write the table to this CSV file")
    parser.add_argument("--max-minutes", type=float, default=60, help="start no trial after that time")
    args = parser.parse_args()
    kinds = args.kinds.split(",")
    if "disk" in kinds and not may_mount():
        if shutil.which("unshare") and "XAITUNE_UNSHARED" not in os.environ:
            os.environ["XAITUNE_UNSHARED"] = "1"
            os.execvp("unshare", ["unshare", "--user", "--map-root-user", "--mount", sys.executable, *sys.argv])
        print("No tmpfs can be mounted here, so the full disk is skipped.", flush=True)
        kinds = [k for k in kinds if k != "disk"]
    with tempfile.TemporaryDirectory() as temporary:
        rows = measure(args, kinds, (args.work or Path(temporary)).absolute())
    bad = sum(not row["ok"] for row in rows)
    accidents = sum(row["kind"] != "none" for row in rows)
    print(f"{len(rows)} sweeps, {accidents} with an accident; {bad} failed a check")
    sys.exit(1 if bad else 0)


def measure(args: argparse.Namespace, kinds: list[str], work: Path) -> list[dict[str, Any]]:
    """Do the undisturbed sweep, the same sweep once more, and the accidents; returns one row for each after the first."""
    end = time.monotonic() + 60 * args.max_minutes
    make_demo_data(work / "data", scale=0.01, image_size=(32, 32))
    epochs = ["--epochs", str(args.epochs)]
    subprocess.run(command("advise", work / "data", *epochs, "--runs-dir", str(work / "runs")), check=True)
    grid = ["--freeze-through", args.depths, "--optimizers", args.optimizers, "--workers=2", "--seeds=1"]
    grid += ["--learning-rates", "own"]
    call = command("sweep-freeze", work / "data", *epochs, *grid)
    first = Sweep(work / "undisturbed", call, work / "runs/advice")
    if first.run():
        sys.exit(first.error())
    reference = {name: contents(first.path / name) for name in names(args)}
    begun, *results = (first.path / "config.json").stat().st_mtime_ns, *sorted(finished(first.path).values())
    pace = (results[0] - begun) / 1e9, (results[-1] - results[0]) / 1e9 / max(len(results) - 1, 1)
    print(f"{len(reference)} runs; the first result after {pace[0]:.1f} s, then one every {pace[1]:.1f} s", flush=True)
    rows = []
    for number in range(int(args.no_repeat), args.times + 1):
        if time.monotonic() > end:
            print(f"Stopped after {args.max_minutes:g} minutes.")
            break
        kind = kinds[(number - 1) % len(kinds)] if number else "none"
        folder = work / f"{number:02d}-{kind}"
        with tmpfs(folder) if kind == "disk" else contextlib.nullcontext():
            sweep = Sweep(folder, call, work / "runs/advice")
            row = trial(sweep, kind, random.Random(f"{args.seed} {number}"), reference, pace)
        shutil.rmtree(folder)
        rows.append({"number": number} | row)
        print(
            f"{number:3d} {kind:7}{row['moment']:20} status {row['status']:3d}, given again {row['again']}, "
            f"{row['equal']} of {len(reference)} equal, {'ok' if row['ok'] else 'NOT OK'} ({row['seconds']} s) "
            f"{row['error'][:120]} {row['differ'][:200]} {row['left over'][:200]}",
            flush=True,
        )
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_csv(args.out, index=False)
    return rows


if __name__ == "__main__":
    main()
