"""Commands that a reader can paste: what is added to them, and when."""

import json

import pytest
from reporting import make_sweep

from xaitune._files import write_json
from xaitune.errors import RunError
from xaitune.report.commands import CommandLine, is_complete
from xaitune.report.next_steps import load_finished_runs


def test_without_a_configuration_commands_take_the_results_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = make_sweep(tmp_path / "runs" / "my sweep")
    train = "xaitune train --freeze-through 3"
    assert CommandLine(sweep.path)(train) == train  # its settings are not there
    (sweep.path / "config.json").write_text(json.dumps({"data": {"path": "images"}}))
    paste = CommandLine(sweep.path)
    assert paste(train) == f"{train} --config 'runs/my sweep/config.json'"
    assert paste("xaitune check-advice") == "xaitune check-advice"
    assert paste(f"{train} --config other.json") == f"{train} --config other.json"
    assert paste("open page.html") == "open page.html"
    (tmp_path / "xaitune.toml").write_text('[data]\npath = "other"\n')
    (tmp_path / "other").mkdir()
    assert "--config" in CommandLine(sweep.path)(train)
    (tmp_path / "images").mkdir()
    (tmp_path / "xaitune.toml").write_text('[data]\npath = "images"\n')
    assert CommandLine(sweep.path)(train) == train


def test_results_elsewhere_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "other" / "sweep" / "fold1" / "run"
    folder.mkdir(parents=True)
    for place in (folder, folder.parent, folder.parent.parent):
        (place / "config.json").write_text(json.dumps({"data": {"path": "images"}}))
    paste = CommandLine(folder)
    assert paste("xaitune report") == "xaitune report --runs-dir other"
    assert paste("xaitune collect") == "xaitune collect --config other/sweep/fold1/run/config.json --runs-dir other"
    monkeypatch.chdir(folder)
    assert CommandLine(folder)("xaitune report") == f"xaitune report --runs-dir {tmp_path / 'other'}"


def test_a_sweep_over_folds_goes_on_while_a_fold_has_no_finished_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = {"freeze_through": [4, 5], "optimizers": ["nag"], "seeds": 1, "folds": 3}
    about = {"kind": "sweep", "grids": [grid], "train": {"weights": "slim"}, "identity": {"folds": 3}}
    write_json(tmp_path / "runs/tiles/config.json", about)
    options = "--freeze-through 4,5 --optimizers nag --seeds 1 --folds 3 --name tiles --config runs/tiles/config.json"
    said = "^In some folds of .*/tiles no depth has been trained to its end yet: so far 0 of 12 runs have ended."
    with pytest.raises(RunError, match=f"{said} .*: xaitune sweep-freeze {options}$"):
        load_finished_runs(tmp_path / "runs/tiles")


def test_what_must_be_filled_in_is_not_complete():
    assert not is_complete("xaitune advise --model RUN")
    assert not is_complete("xaitune train --epochs N")
    assert not is_complete("")
    assert is_complete("xaitune sweep-freeze --freeze-through 1,2 --config '/a B/config.json'")
