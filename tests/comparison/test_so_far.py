"""How many runs of a sweep's grid have ended."""

from xaitune._files import write_json
from xaitune.comparison.so_far import runs_so_far, so_far_text


def end(folder, state="finished"):
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "result.json", {"state": state})


def grid(**changes):
    return {"freeze_through": [3, 4], "optimizers": ["sgd", "nag"], "seeds": 2, "folds": None} | changes


def test_runs_of_the_grid_that_have_ended(tmp_path):
    assert runs_so_far(tmp_path) is None  # a folder of an earlier version
    write_json(tmp_path / "config.json", {"grid": grid()})
    assert runs_so_far(tmp_path) == (0, 8)
    for name in ("freeze3-sgd-seed0", "freeze3-nag-lr0.01-seed1", "freeze1-nag-seed0", "frozen-all-blocks"):
        end(tmp_path / name)  # the last two are not of the grid
    end(tmp_path / "freeze4-nag-seed0", "diverged")
    end(tmp_path / "freeze4-sgd-lr0.1-seed0", "stopped")  # at a learning rate that was not chosen
    assert so_far_text(tmp_path) == "so far 3 of 8 runs have ended"
    write_json(tmp_path / "sweep.json", {"failures": {"freeze4-sgd-seed0": "memory ran out"}})
    assert runs_so_far(tmp_path) == (4, 8)
    for depth in (3, 4):
        for optimizer in ("sgd", "nag"):
            for seed in (0, 1):
                end(tmp_path / f"resnet50-freeze{depth}-{optimizer}-seed{seed}")
    assert runs_so_far(tmp_path) is None
    assert so_far_text(tmp_path) == ""


def test_runs_of_every_fold_count(tmp_path):
    write_json(tmp_path / "config.json", {"grid": grid(folds=2, freeze_through=[3], optimizers=["nag"], seeds=1)})
    end(tmp_path / "fold1" / "freeze3-nag-seed0")
    assert runs_so_far(tmp_path) == (1, 2)
    end(tmp_path / "fold2" / "freeze3-nag-seed0")
    assert runs_so_far(tmp_path) is None
