"""Two of the accidents of benchmarks/kills.py: a worker and the parent of a small sweep, each killed with -9."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parents[2] / "benchmarks/kills.py"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_a_worker_and_the_parent_killed_at_random_moments(tmp_path):
    small = ["--times", "2", "--kinds", "worker,parent", "--no-repeat", "--depths", "4,5", "--optimizers", "nag"]
    command = [sys.executable, KILLS, *small, "--epochs", "3", "--work", tmp_path, "--out", tmp_path / "kills.csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "kills.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["worker", "parent"]
    for row in rows:
        assert (row["hit"], row["each once"], row["equal"], row["trained twice"]) == (
            "True",
            "True",
            "4",
            "0",
        )  # two cells and two linear heads
    assert rows[1]["status"] == "-9"
