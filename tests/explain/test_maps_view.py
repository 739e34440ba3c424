"""The interactive view of heatmaps: its parts, its limit, and a browser that moves its sliders."""

import base64
import html.parser
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from xaitune.errors import InputError
from xaitune.explain.heatmaps import BlockHeatmaps
from xaitune.explain.map_checks import MapChecks
from xaitune.explain.maps_view import MOST_IMAGES

NAME = "</script><script>alert(1)</script>"


def heatmaps(count):
    """Heatmaps of grey images at Block 2 and 5; those at Block 5 fail a check."""
    raw = {2: np.zeros((count, 8, 8), np.float32), 5: np.ones((count, 2, 2), np.float32)}
    raw[2][:, 0, 0] = 1
    made = BlockHeatmaps(
        method="gradcam",
        raw=raw,
        images=np.full((count, 16, 16, 3), 100, np.float32),
        files=tuple(f"{NAME} {i}" for i in range(count)),
        classes=np.zeros(count, int),
        class_names=("균열", "free"),
        probabilities=np.full((count, 2), 0.5),
    )
    better = np.tile([1.0, 0.25], (count, 1))
    return made.with_checks(
        MapChecks(made.files, (2, 5), made.is_zero, better, np.ones((count, 2)), np.zeros(2), count, 0)
    )


class _Parts(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.data, self.inside = [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = dict(attributes).get("type") == "application/json"

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        self.data += data if self.inside else ""


def pixels(url):
    return cv2.imdecode(np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8), cv2.IMREAD_UNCHANGED)


def test_each_picture_is_stored_once_and_a_strip_stands_for_it_without_scripts():
    text = heatmaps(3).show()._repr_html_()
    parts = _Parts(text)
    data = json.loads(parts.data)
    assert data["blocks"] == ["Block 2", "Block 5"]
    assert [len(image["maps"]) for image in data["images"]] == [2, 2, 2]
    assert [image["doubts"] for image in data["images"]] == [["", "no better than elsewhere"]] * 3
    assert data["images"][0]["caption"].endswith(": predicted 균열 (p = 0.50)")
    assert pixels(data["images"][0]["picture"]).tolist() == np.full((16, 16, 3), 100).tolist()
    heat = pixels(data["images"][0]["maps"][0])
    assert heat.shape == (16, 16, 4)
    assert (heat[0, 0, 3], heat[-1, -1, 3]) == (255, 0)  # as opaque as the map is high
    assert len([tag for tag, about in parts.tags if tag == "img" and about.get("src")]) == 3  # the image and two maps
    assert len([tag for tag, _ in parts.tags if tag == "script"]) == 2  # a name cannot add one
    assert "&#9888; no better than elsewhere" in text
    assert "://" not in text


def test_more_images_than_fit_are_left_out_and_counted():
    maps = heatmaps(MOST_IMAGES + 1)
    view = maps.show()
    assert view.images == list(range(MOST_IMAGES))
    assert view.note == "24 of 25 images are shown; show(images=[...]) shows others."
    assert maps.show([24]).images == [24]
    for wrong in ([], [25], range(25)):
        with pytest.raises(InputError, match="1 to 24 numbers from 0 to 24"):
            maps.show(wrong)


def test_the_sliders_move_the_picture_and_without_scripts_the_strip_shows(tmp_path):
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium here")
    page_file = heatmaps(2).show().save(tmp_path / "view.html")
    with sync.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page, said, asked = chromium.new_page(), [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(Path(page_file).as_uri())
        assert page.locator(".xm-static").is_hidden()
        first = page.locator(".xm-map").get_attribute("src")
        assert page.locator(".xm-name").inner_text() == "Block 5"  # where the maps are largest
        assert page.locator(".xm-doubts").inner_text() == "\u26a0 no better than elsewhere"
        page.locator(".xm-block").fill("0")
        page.locator(".xm-image").fill("1")
        page.locator(".xm-strength").fill("25")
        assert page.locator(".xm-map").get_attribute("src") != first
        assert page.locator(".xm-map").evaluate("map => map.style.opacity") == "0.25"
        assert page.locator(".xm-name").inner_text() == "Block 2"
        assert page.locator(".xm-caption").inner_text().endswith("1: predicted 균열 (p = 0.50)")
        assert page.locator(".xm-doubts").inner_text() == ""
        assert said == []
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        still = chromium.new_context(java_script_enabled=False).new_page()
        still.goto(Path(page_file).as_uri())
        assert still.locator(".xm-static").is_visible()
        assert still.locator(".xm-live").is_hidden()
        chromium.close()
