"""What a worker process of a sweep holds after many runs: python benchmarks/memory.py [--runs 45] [--out FILE.csv]

One worker at a time does all runs, as in a sweep: every depth, three optimizers, several seeds, on drawn images with slim
weights; the engine replaces it when it has grown. Prints its resident memory after each run, how often it was replaced,
and the ratio of the last figure and of the highest to that after 5 runs.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import pandas as pd

from xaitune.comparison import grid
from xaitune.comparison.engines.local import _Crew
from xaitune.config.schema import SweepConfig, TrainConfig
from xaitune.demo.scans import make_demo_data
from xaitune.training.folder import run_name

SETTLED = 5  # runs after which the memory must stay where it is


def resident(pid: int) -> float:
    """Resident memory of a process in MB (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=45)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the figures here, as CSV")
    args = parser.parse_args()
    base = TrainConfig(weights="slim", head_epochs=1, epochs=args.epochs, precision="float32")
    configs = grid.grid(SweepConfig(seeds=-(-args.runs // 15)), base)[: args.runs]
    rows = []
    with tempfile.TemporaryDirectory() as work:
        data = make_demo_data(Path(work) / "data", scale=0.01, image_size=(32, 32))
        common = {"kind": "run", "data": dataclasses.asdict(data.config), "fingerprint": data.fingerprint}
        common |= {"cache_dir": f"{work}/cache", "cache_gb": 1.0, "runs_dir": f"{work}/runs"}
        crew, processes = _Crew(1), set()
        try:
            for number, config in enumerate(configs, 1):
                task = {**common, "name": run_name(config), "train": dataclasses.asdict(config)}
                worker = crew.take()
                processes.add(worker.process.pid)
                state = worker.do(task, lambda task, event: None).get("state")
                row = {"runs": number, "name": task["name"], "resident_mb": round(resident(worker.process.pid), 1)}
                rows.append(row | {"process": len(processes)})
                crew.give_back(worker, alive=True)
                print(f"{number:3d} {task['name']:24} {state}: {row['resident_mb']:.1f} MB", flush=True)
        finally:
            crew.end()
    if len(rows) > SETTLED:
        sizes = [row["resident_mb"] for row in rows]
        early, late, most = sizes[SETTLED - 1], sizes[-1], max(sizes[SETTLED:])
        print(f"after {SETTLED} runs {early:.0f} MB, after {len(rows)} runs {late:.0f} MB: ratio {late / early:.3f}")
        print(f"at most {most:.0f} MB after run {SETTLED}: ratio {most / early:.3f}; {len(processes)} processes")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
