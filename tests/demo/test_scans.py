"""The demo's synthetic scans: classes, groups, masks, reproducibility, and folders that are left alone."""

import csv
import hashlib
import json

import cv2
import numpy as np
import pytest

from xaitune.demo import scans as synthetic
from xaitune.demo.defects import CLASSES, Grid
from xaitune.demo.scans import make_demo_data
from xaitune.errors import ConfigError, DataError, RunError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The demo's data with the default arguments."""
    path = tmp_path_factory.mktemp("demo") / "결함 data"
    return path, make_demo_data(path)


def fingerprints(path):
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return {str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def grey(path):
    return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)


def rows(path):
    with open(path / "groups.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def small(path, **options):
    return make_demo_data(path, **{"image_size": (32, 40), "scale": 0.01, **options})


def test_eleven_classes_of_uneven_frequency_with_groups_of_three_or_four(whole):
    path, data = whole
    counts = {name: len(list((path / "images" / name).glob("*.png"))) for name in CLASSES}
    assert len(counts) == 11
    assert 560 <= sum(counts.values()) <= 640
    assert 80 <= max(counts.values()) <= 104
    assert 24 <= min(counts.values()) <= 32
    groups = [row["group"] for row in rows(path)]
    assert set(np.unique(groups, return_counts=True)[1]) == {3, 4}
    assert len(set(groups)) == sum(parts for _, parts in CLASSES.values())
    assert all(row["file"].split("/")[0] == row["group"].rsplit("-", 1)[0] for row in rows(path))
    assert len(data) == sum(counts.values())
    assert list(data.class_names) == sorted(CLASSES)


def test_no_group_is_divided_and_every_split_has_every_class(whole):
    _, data = whole
    groups, labels = np.asarray(data.groups), np.asarray(data.labels)
    parts = [data.indices(split) for split in ("train", "validation", "test")]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not set(groups[parts[one]]) & set(groups[parts[other]])
    assert all(len(set(labels[part])) == 11 for part in parts)


def test_every_image_is_8_bit_grey_with_a_mask_that_is_neither_empty_nor_large(whole):
    path, data = whole
    shares = []
    for row in rows(path):
        image, mask = (grey(path / kind / row["file"]) for kind in ("images", "masks"))
        assert image.dtype == mask.dtype == np.uint8
        assert image.shape == mask.shape == (64, 64)
        assert set(np.unique(mask)) == {0, 255}
        assert 15 < image.mean() < 160
        shares.append((mask > 0).mean())
    assert min(shares) > 0.004
    assert max(shares) < 0.25
    assert all(data.mask(i) is not None for i in (0, len(data) - 1))


def test_the_mask_marks_where_the_echo_is():
    """For classes with bright echoes only: the echo lies inside the mask, where the image is brighter than around it."""
    grid = Grid((64, 64))
    for name in ("porosity", "inclusion", "crack", "shrinkage", "flake", "centre_line", "burst"):
        for number in range(1, 6):
            cover, echo = CLASSES[name][0](grid, np.random.default_rng(number))
            assert (echo[cover == 0] == 0).all()
            assert echo[cover >= 0.5].min() > 0.05
            for image, mask in synthetic._part(name, number, 0, grid):
                around = cv2.dilate(mask, np.ones((9, 9))) > cv2.dilate(mask, np.ones((5, 5)))
                assert image[mask > 0].mean() > image[around].mean() + 5


def test_shapes_by_hand():
    grid = Grid((100, 200))
    assert (grid.height, grid.width) == (1.0, 2.0)
    assert (grid.x[0, 0], grid.y[0, 0], grid.x[0, 199]) == (0.005, 0.005, pytest.approx(1.995))
    disc = grid.ellipses([1.0, 0.5], [0.3, 0.3])
    assert disc.sum() / 100**2 == pytest.approx(np.pi * 0.09, rel=0.01)
    turned = grid.ellipses([1.0, 0.5], [0.4, 0.1], np.pi / 2)
    assert (turned[:, 100] > 0.5).sum() == 80  # the long axis is vertical
    line = grid.line(np.array([[0.5, 0.5], [1.5, 0.5]]), 0.1)
    assert (line[:, 100] >= 0.5).sum() == 10
    assert (line[50] >= 0.5).sum() == pytest.approx(110, abs=1)  # round ends


def test_scans_of_a_part_are_alike_but_never_identical():
    grid = Grid((64, 64))
    scans = [image for image, _ in synthetic._part("island", 1, 0, grid)]
    other = synthetic._part("island", 2, 0, grid)[0][0]
    assert not any(np.array_equal(scans[0], scan) for scan in scans[1:])

    def similarity(a, b):
        """Highest correlation over the shifts that two scans can have."""
        a, b = (cv2.GaussianBlur(x.astype(np.float32), (0, 0), 1.5) for x in (a, b))
        return cv2.matchTemplate(a, b[7:-7, 7:-7], cv2.TM_CCOEFF_NORMED).max()

    assert min(similarity(scans[0], scan) for scan in scans[1:]) > similarity(scans[0], other) + 0.2


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        small(tmp_path / name, seed=seed)
    a, b, c = (fingerprints(tmp_path / name) for name in "abc")
    assert a == b
    same = [name for name in a if name.startswith("images") and a[name] == c.get(name)]
    assert same == []
    assert grey(next((tmp_path / "a" / "images").rglob("*.png"))).shape == (32, 40)


def test_a_smaller_scale_keeps_the_same_parts(tmp_path, whole):
    path, _ = whole
    make_demo_data(tmp_path / "few", scale=0.01)
    few, all_of_them = fingerprints(tmp_path / "few"), fingerprints(path)
    assert len({row["group"] for row in rows(tmp_path / "few")}) == 33
    assert all(all_of_them[name] == digest for name, digest in few.items() if name.endswith(".png"))


def test_complete_data_are_reused_and_not_drawn_again(tmp_path, monkeypatch):
    first = small(tmp_path / "d")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "d").rglob("*")}
    monkeypatch.setattr(synthetic, "_write", lambda *_: pytest.fail("drawn again"))
    again = small(tmp_path / "d", split_seed=1)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "d").rglob("*")}
    assert len(again) == len(first)


def test_an_interrupted_folder_is_completed(tmp_path, monkeypatch):
    small(tmp_path / "whole")
    write, drawn = synthetic._part, []

    def stop_after_five(*arguments):
        drawn.append(arguments)
        if len(drawn) > 5:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(synthetic, "_part", stop_after_five)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "d")
    assert json.loads((tmp_path / "d" / "demo.json").read_text())["finished"] is False
    monkeypatch.setattr(synthetic, "_part", write)
    small(tmp_path / "d")
    assert fingerprints(tmp_path / "d") == fingerprints(tmp_path / "whole")
    next((tmp_path / "d" / "masks").rglob("*.png")).unlink()  # a folder that has lost a file is completed too
    small(tmp_path / "d")
    assert fingerprints(tmp_path / "d") == fingerprints(tmp_path / "whole")


def test_a_folder_with_other_content_is_left_as_it_is(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    with pytest.raises(DataError, match="holds other files and is left as it is"):
        small(mine)
    assert fingerprints(mine).keys() == {"notes.txt"}
    with pytest.raises(DataError, match="is a file"):
        small(mine / "notes.txt")
    (mine / "demo.json").write_text("[]")
    with pytest.raises(DataError, match=r"demo\.json cannot be read"):
        small(mine)
    small(tmp_path / "d")
    before = fingerprints(tmp_path / "d")
    with pytest.raises(DataError, match=r"'seed': 0.*'seed': 1"):
        small(tmp_path / "d", seed=1)
    assert fingerprints(tmp_path / "d") == before
    (tmp_path / "empty").mkdir()
    assert len(small(tmp_path / "empty")) >= 99


@pytest.mark.parametrize(
    ("options", "message"),
    [({"seed": -1}, "seed=-1"), ({"seed": True}, "seed=True"), ({"scale": 0}, "scale=0"), ({"image_size": 8}, "8")],
)
def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        make_demo_data(tmp_path / "d", **options)
    assert not (tmp_path / "d").exists()


def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    def disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(synthetic, "_write", disk_full)
    with pytest.raises(RunError, match="No space left"):
        small(tmp_path / "d")
