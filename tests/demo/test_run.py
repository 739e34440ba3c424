"""`xaitune demo --quick`: the whole workflow up to the report, interrupted and resumed."""

import re
import time

import pytest
from driving import xaitune

from xaitune.config.toml import load_config
from xaitune.demo import run as demo


@pytest.mark.filterwarnings("error::xaitune.errors.XaituneWarning")  # a newcomer should see none
def test_interrupted_then_completed_then_repeated(tmp_path):
    seen, messages = [], []

    def stop(done, total, what):
        if what.startswith("advise"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(tmp_path / "demo", stop, messages.append, quick=True)
    trained = tmp_path / "demo/runs/freeze3-nag-seed0/result.json"
    trained_at = trained.stat().st_mtime_ns

    def progress(done, total, what):
        seen.append((done / total, what))

    start = time.monotonic()
    first = demo.run_demo(tmp_path / "demo", progress, messages.append, quick=True)
    took = time.monotonic() - start
    assert trained.stat().st_mtime_ns == trained_at  # it resumed where it was interrupted
    page = first["report"].read_text(encoding="utf-8")
    assert first["report"].name == "report.html"
    assert "://" not in page.replace("http://www.w3.org", "").replace("https://www.w3.org", "")  # needs no network
    assert first["check"].verdict in ("confirmed", "contradicted", "cannot tell")
    assert first["check"].sentence().split(":")[0] in re.sub(r"<[^>]+>", "", page)  # without the glossary's marks
    assert first["check"].advice_made_first
    assert set(first["sweep"].cells["freeze_through"]) == {4, 5, first["check"].advised}
    assert len(first["sweep"].heads) == 2
    # One bar over all steps, which never goes back.
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1
    assert [s for s in demo.STEPS if any(what.startswith(s) for _, what in seen)] == list(demo.STEPS)
    # It leaves a usable project: xaitune.toml with valid paths, a run, explanations, advice and a sweep.
    config = load_config(tmp_path / "demo/xaitune.toml")
    assert config.train == demo.QUICK_TRAIN
    names = {p.name for p in (tmp_path / "demo/runs").iterdir()}
    assert names >= {"freeze3-nag-seed0", "explain", "explain-lime", "advice", "sweep"}

    files = [p for p in (tmp_path / "demo").rglob("*") if p.name in ("result.json", "advice.json", "explain.json")]
    before = {p: p.stat().st_mtime_ns for p in files}
    start = time.monotonic()
    again = demo.run_demo(tmp_path / "demo", progress, messages.append, quick=True)
    assert time.monotonic() - start < max(0.6 * took, 10)
    assert {p: p.stat().st_mtime_ns for p in files} == before  # nothing was trained or drawn twice
    assert again["check"] == first["check"] or again["check"].difference == first["check"].difference
    assert again["check"].verdict == first["check"].verdict

    answer = xaitune(tmp_path, "demo", "--quick", "--folder", "demo")
    assert answer.status == 0
    *_, headline, reasons = answer.out.partition("How sure that is: ")[0].splitlines()
    assert headline in re.sub(r"<[^>]+>", "", page)  # the page's own
    assert reasons in first["check"].sentence()
    assert f"Open the page in a browser: {first['report']}" in answer.out
    assert "--to onnx --runs-dir demo/runs" in " ".join(answer.out.split())  # to be pasted here
    assert answer.out.endswith("Next: xaitune init FOLDER\n")


def test_the_full_demo_has_fifteen_cells_and_slim_weights():
    assert demo.TRAIN.weights == "slim"
    assert len(demo.SWEEP.freeze_through) * len(demo.SWEEP.optimizers) == 15
    assert sum(demo.STEPS.values()) == 100
