"""What a shell offers after TAB, asked as bash, zsh and fish ask."""

import os
import subprocess
import sys

import pytest
from driving import xaitune

from xaitune._files import write_json
from xaitune.cli.completion import complete_path, names_completion


def offered(folder, *words):
    """What bash is offered for the last of the words, each on a line, by the program itself."""
    asked = {
        "_XAITUNE_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["xaitune", *words]),
        "COMP_CWORD": str(len(words)),
    }
    code = "from xaitune.cli.app import main; main()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=os.environ | asked)
    return done.stdout.split()


@pytest.fixture
def project(tmp_path):
    """A folder with two runs, one of them in a sweep."""
    write_json(tmp_path / "runs/freeze3-nag-seed0/config.json", {"kind": "run"})
    write_json(tmp_path / "runs/sweep/config.json", {"kind": "sweep"})
    write_json(tmp_path / "runs/sweep/freeze4-sgd-seed0/config.json", {"kind": "run"})
    return tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["swe"], ["sweep-freeze"]),
        (["train", "--optim"], ["--optimizer"]),
        (["train", "--optimizer", "n"], ["nag", "nadam"]),
        (["sweep-freeze", "--optimizers", "nag,mo"], ["nag,momentum"]),
        (["predict", "runs/sweep/fr"], ["runs/sweep/freeze4-sgd-seed0"]),
        (["explain", "--model", "runs/f"], ["runs/freeze3-nag-seed0"]),
    ],
)
def test_bash_is_offered(project, words, expected):
    assert sorted(offered(project, *words)) == sorted(expected)


def test_names_after_a_comma_are_offered_once():
    offer = names_completion(["flip", "rotation", "noise"], several=True)
    assert offer("") == ["flip", "rotation", "noise"]
    assert offer("flip,") == ["flip,rotation", "flip,noise"]
    assert names_completion(["gap", "fc"])("g") == ["gap"]


def test_paths(project, monkeypatch):
    monkeypatch.chdir(project)
    (project / ".hidden").touch()
    assert complete_path("") == ["runs/"]
    assert complete_path("runs/sw") == ["runs/sweep/"]
    assert complete_path("runs/sweep/") == ["runs/sweep/config.json", "runs/sweep/freeze4-sgd-seed0/"]
    assert complete_path(".h") == [".hidden"]
    assert complete_path("nowhere/x") == []


def test_it_can_be_installed(tmp_path):
    help_text = xaitune(tmp_path, "--help").out
    assert "--install-completion" in help_text
    assert "--show-completion" in help_text
