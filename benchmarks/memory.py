"""The memory of a sweep's worker process after many runs: python benchmarks/memory.py [--runs 45] [--out FILE.csv]

One worker at a time does all runs, as in a sweep: every depth, three optimizers, several seeds, on generated images with
slim weights. The engine replaces the worker when its memory has grown. Prints its resident memory after each run, the
number of processes, and the ratio of the last figure and of the highest one to the figure after 5 runs.
"""

import argparse
import tempfile
from pathlib import Path

import pandas as pd

from xaitune.comparison.engines.local import _WorkerPool
from xaitune.comparison.engines.task import Task
from xaitune.comparison.grid import grid_runs
from xaitune.config.settings import SweepConfig, TrainConfig
from xaitune.demo.scans import make_demo_data
from xaitune.training.folder import run_name

SETTLED = 5  # number of runs after which the memory must no longer grow


def resident(pid: int) -> float:
    """Resident memory of a process in MB (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=45)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the figures to this CSV file")
    args = parser.parse_args()
    base = TrainConfig(weights="slim", head_epochs=1, epochs=args.epochs, precision="float32")
    runs = grid_runs(SweepConfig(seeds=-(-args.runs // 15)), base)[: args.runs]
    rows = []
    with tempfile.TemporaryDirectory() as work:
        data = make_demo_data(Path(work) / "data", scale=0.01, image_size=(32, 32))
        pool, processes = _WorkerPool(1), set()
        try:
            for number, run in enumerate(runs, 1):
                task = Task(run_name(run), data.config, data.fingerprint, run, f"{work}/runs", f"{work}/cache", 1.0)
                worker = pool.take()
                processes.add(worker.process.pid)
                end = worker.do(task, lambda task, step: None)
                row = {"runs": number, "name": task.name, "resident_mb": round(resident(worker.process.pid), 1)}
                rows.append(row | {"process": len(processes)})
                pool.give_back(worker, alive=True)
                print(f"{number:3d} {task.name:24} {end.state}: {row['resident_mb']:.1f} MB", flush=True)
        finally:
            pool.stop()
    if len(rows) > SETTLED:
        sizes = [row["resident_mb"] for row in rows]
        early, late, most = sizes[SETTLED - 1], sizes[-1], max(sizes[SETTLED:])
        print(f"{early:.0f} MB after {SETTLED} runs, {late:.0f} MB after {len(rows)} runs: ratio {late / early:.3f}")
        print(f"at most {most:.0f} MB after run {SETTLED}: ratio {most / early:.3f}; {len(processes)} processes")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
