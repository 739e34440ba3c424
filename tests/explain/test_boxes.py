"""Boxes from drawn maps whose regions are known, in the pixels of the file, and their COCO form."""

import json

import cv2
import numpy as np
import pytest

import xaitune as xt
from xaitune.config.explain_settings import BoxOptions
from xaitune.errors import ConfigError
from xaitune.explain import boxes as module
from xaitune.explain.boxes import COLUMNS, SIDES, boxes_from_maps, connected_regions, join_boxes
from xaitune.explain.heatmaps import BlockHeatmaps
from xaitune.explain.store import ExplanationWriter
from xaitune.plots import overlays


def heatmaps(raw, files=None, size=(8, 8), resize="stretch", **options):
    """Heatmaps with these raw values: block -> (n, h, w)."""
    n = len(next(iter(raw.values())))
    return BlockHeatmaps(
        method="gradcam",
        raw={b: np.array(m, np.float32) for b, m in raw.items()},
        images=np.zeros((n, *size, 3), np.uint8),
        files=tuple(f"{i}.png" for i in range(n)) if files is None else tuple(map(str, files)),
        classes=np.zeros(n, int),
        class_names=("crack", "hole"),
        probabilities=np.full((n, 2), 0.5),
        resize=resize,
        **options,
    )


def drawn(*regions, size=(8, 8)):
    """A map of 0 with regions (x, y, width, height, value)."""
    out = np.zeros(size)
    for x, y, width, height, value in regions:
        out[y : y + height, x : x + width] = value
    return out


def sides(boxes):
    return boxes.table[SIDES].to_numpy().tolist()


def image_file(folder, height, width, name="part.png"):
    path = folder / name
    cv2.imwrite(str(path), np.zeros((height, width), np.uint8))
    return path


def test_one_region():
    boxes = boxes_from_maps(heatmaps({5: [drawn((2, 3, 4, 2, 7.0))]}))
    assert list(boxes.to_dataframe().columns) == list(COLUMNS)
    assert boxes.to_dataframe().iloc[0].to_dict() == {
        "file": "0.png",
        "block": 5,
        "rule": "gradcam",
        "class": "crack",
        **{"x": 2, "y": 3, "width": 4, "height": 2},
        **{"score": 1.0, "area": 8, "threshold": 0.2},
    }


def test_two_regions_come_by_score_and_the_largest_may_not_be_the_hottest():
    maps = heatmaps({3: [drawn((0, 0, 1, 2, 10.0), (4, 4, 3, 3, 5.0))]})
    boxes = boxes_from_maps(maps, regions="all")
    assert sides(boxes) == [[0, 0, 1, 2], [4, 4, 3, 3]]
    assert boxes.table["score"].tolist() == [1.0, 0.5]
    assert sides(boxes_from_maps(maps)) == [[4, 4, 3, 3]]
    assert sides(boxes_from_maps(maps, threshold=0.6)) == [[0, 0, 1, 2]]
    assert sides(boxes_from_maps(maps, threshold=0.5, regions="all")) == sides(boxes)  # at least, not above


def test_small_regions_are_left_out_but_never_the_largest():
    maps = heatmaps({3: [drawn((0, 0, 1, 2, 9.0), (4, 4, 3, 3, 5.0))]})
    assert sides(boxes_from_maps(maps, regions="all", min_area=3 / 64)) == [[4, 4, 3, 3]]
    assert sides(boxes_from_maps(maps, regions="all", min_area=0.9)) == [[4, 4, 3, 3]]


def test_regions_are_connected_over_corners():
    assert len(connected_regions(np.eye(4, dtype=bool))[1]) == 1


def test_a_map_without_positive_values_gets_no_box_and_keeps_its_image():
    boxes = boxes_from_maps(heatmaps({1: [np.zeros((4, 4)), -np.ones((4, 4))], 2: [np.ones((4, 4)), np.zeros((4, 4))]}))
    assert boxes.table[["image", "block"]].to_numpy().tolist() == [[0, 2]]
    assert sides(boxes) == [[0, 0, 8, 8]]
    assert boxes.images["file"].tolist() == ["0.png", "1.png"]
    assert {b: len(found) for b, found in boxes.of_image(1).items()} == {1: 0, 2: 0}
    empty = boxes_from_maps(heatmaps({1: [np.zeros((4, 4))]}))
    assert (len(empty), len(empty.to_coco()["annotations"]), len(empty.to_coco()["images"])) == (0, 0, 1)


def test_a_region_at_the_border_stays_inside(tmp_path):
    file = image_file(tmp_path, 30, 20)
    boxes = boxes_from_maps(heatmaps({1: [drawn((6, 0, 2, 8, 1.0))]}, [file]), threshold=0.5)
    assert sides(boxes) == [[15, 0, 5, 30]]
    np.testing.assert_allclose(boxes.of_image(0)[1], [[0.75, 0, 0.25, 1]])


def test_stretched_maps_are_boxed_in_the_files_pixels(tmp_path):
    file = image_file(tmp_path, 16, 32)
    boxes = boxes_from_maps(heatmaps({1: [drawn((2, 4, 4, 2, 1.0))]}, [file]), threshold=0.5)
    assert sides(boxes) == [[8, 8, 16, 4]]  # one cell is 4 pixels wide and 2 high
    assert boxes.table["area"].tolist() == [16 * 4 - 4]  # the interpolated map is below half at the four corners
    assert boxes.size(0) == (16, 32)


def test_padded_maps_are_boxed_without_their_padding(tmp_path):
    # 16 x 32 in 8 x 8: the image fills rows 2 to 5, so a cell is 4 x 4 pixels. The padding holds the map's maximum.
    file = image_file(tmp_path, 16, 32)
    raw = drawn((0, 0, 8, 1, 9.0), (2, 3, 3, 2, 1.0))
    boxes = boxes_from_maps(heatmaps({1: [raw]}, [file], resize="pad"), threshold=0.5)
    assert sides(boxes) == [[8, 4, 12, 8]]
    assert boxes.table["score"].tolist() == [1.0]


def test_very_large_files_are_cut_at_fewer_pixels(tmp_path, monkeypatch):
    file = image_file(tmp_path, 320, 640)
    maps = heatmaps({1: [drawn((2, 4, 4, 2, 1.0))]}, [file])
    whole = boxes_from_maps(maps, threshold=0.5).table
    monkeypatch.setattr(module, "_MOST_PIXELS", 80 * 160)
    reduced = boxes_from_maps(maps, threshold=0.5).table
    assert np.abs(whole[SIDES].to_numpy() - reduced[SIDES].to_numpy()).max() <= 4
    assert reduced["area"][0] == pytest.approx(whole["area"][0], rel=0.1)


def test_batches_join_to_the_same_boxes():
    raw = np.stack([drawn((i, i, 2, 2, 1.0)) for i in range(4)] + [np.zeros((8, 8))])
    files = [f"{i}.png" for i in range(5)]
    whole = boxes_from_maps(heatmaps({1: raw, 2: raw}, files))
    parts = [
        boxes_from_maps(heatmaps({1: raw[r], 2: raw[r]}, files[r])) for r in (slice(0, 2), slice(2, 4), slice(4, 5))
    ]
    assert join_boxes(parts).table.to_dict("list") == whole.table.to_dict("list")
    assert join_boxes(parts).to_coco() == whole.to_coco()


def test_coco_is_valid_and_0_based_with_ids_from_1():
    maps = heatmaps(
        {3: [drawn((0, 0, 2, 2, 1.0)), drawn((5, 6, 3, 2, 1.0))], 5: [np.zeros((8, 8)), drawn((1, 1, 1, 1, 1.0))]}
    )
    boxes = boxes_from_maps(maps)
    coco = json.loads(json.dumps(boxes.to_coco(), allow_nan=False))
    assert [image["id"] for image in coco["images"]] == [1, 2]
    assert all({"id", "file_name", "width", "height"} <= set(image) for image in coco["images"])
    assert [(c["id"], c["name"]) for c in coco["categories"]] == [(1, "crack"), (2, "hole")]
    ids = [a["id"] for a in coco["annotations"]]
    assert len(set(ids)) == len(ids) == 3
    for annotation in coco["annotations"]:
        image = coco["images"][annotation["image_id"] - 1]
        x, y, width, height = annotation["bbox"]
        assert 0 <= x < x + width <= image["width"]
        assert 0 <= y < y + height <= image["height"]
        assert annotation["area"] == width * height
        assert annotation["category_id"] == 1
        assert annotation["iscrowd"] == 0
        assert annotation["segmentation"] == [[x, y, x + width, y, x + width, y + height, x, y + height]]
    assert coco["annotations"][0]["bbox"] == [0, 0, 2, 2]
    assert [a["image_id"] for a in boxes.to_coco(block=5)["annotations"]] == [2]
    assert "boxes in 2 images" in boxes._repr_html_()


def test_layers_are_named():
    boxes = boxes_from_maps(heatmaps({1: [np.ones((4, 4))]}, layers={1: "mixed7"}))
    assert boxes.to_dataframe()["layer"].tolist() == ["mixed7"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0}, "threshold must be above 0 and at most 1. Received: threshold=0."),
        ({"threshold": 1.2}, "threshold must be above 0 and at most 1. Received: threshold=1.2."),
        ({"min_area": -0.1}, "min_area must be at least 0 and below 1. Received: min_area=-0.1."),
        (
            {"regions": "larges"},
            "regions must be one of largest, all. Received: regions='larges'. Did you mean 'largest'?",
        ),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError) as error:
        boxes_from_maps(heatmaps({1: [np.ones((4, 4))]}), **options)
    assert str(error.value) == message


def test_rectangles_are_drawn_where_they_are():
    picture = overlays.rectangles(np.full((240, 240, 3), 200, np.uint8), [[0.25, 0.5, 0.5, 0.25]], overlays.FOUND)
    coloured = (picture == overlays.FOUND).all(axis=2)
    rows, columns = np.flatnonzero(coloured.any(axis=1)), np.flatnonzero(coloured.any(axis=0))
    np.testing.assert_allclose([columns[0], columns[-1]], [60, 180], atol=2)
    np.testing.assert_allclose([rows[0], rows[-1]], [120, 180], atol=2)
    assert (picture[150, 120] == 200).all()
    assert overlays.rectangles(np.zeros((32, 16, 3), np.uint8), np.zeros((0, 4)), overlays.FOUND).shape == (256, 128, 3)


def test_pictures_show_boxes_from_the_map_and_true_ones(tmp_path):
    maps = heatmaps({1: [drawn((2, 2, 4, 4, 1.0))]}, size=(64, 64))
    boxes = boxes_from_maps(maps)
    plain, marked = maps.panels(0), maps.panels(0, boxes=boxes.of_image(0), true_boxes=np.array([[0.1, 0.1, 0.3, 0.3]]))
    seen = [
        [(picture == colour).all(axis=2).any() for colour in (overlays.FOUND, overlays.TRUE)] for _, picture in marked
    ]
    assert seen == [[False, True], [True, True]]
    assert not any((picture == overlays.FOUND).all(axis=2).any() for _, picture in plain)
    ax = maps.plot(image=0, boxes=boxes.of_image(0))
    assert "boxes from the map: light blue" in " ".join(" ".join(text.get_text() for text in ax.texts).split())


def test_an_interrupted_writer_keeps_its_boxes(tmp_path):
    raw = np.stack([drawn((i, i, 2, 2, 1.0)) for i in range(3)])
    about, options = {"method": "gradcam", "class_names": ["crack", "hole"]}, BoxOptions(threshold=0.5)
    batches = [heatmaps({1: raw[[i]]}, [f"{i}.png"]) for i in range(3)]
    with ExplanationWriter(tmp_path, about, {"a": 1}, options) as writer:
        writer.add(batches[0])
    with ExplanationWriter(tmp_path, about, {"a": 1}, options) as writer:
        assert writer.done == 1
        for batch in batches[1:]:
            writer.add(batch)
        writer.close()
        whole = boxes_from_maps(heatmaps({1: raw}), threshold=0.5)
        assert writer.all_boxes().to_coco() == whole.to_coco()
    assert json.loads((tmp_path / "boxes.json").read_text(encoding="utf-8")) == whole.to_coco()


def test_public_names():
    assert xt.boxes_from_maps is boxes_from_maps
