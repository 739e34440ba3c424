"""The page in a real browser: what its script does, and that it asks for nothing."""

import base64
import json
import re
import shutil

import cv2
import numpy as np
import pytest
from reporting import CLASSES, make_viewed, write_full_report

from xaitune.plots.overlays import overlay

OPEN_ALL = "document.querySelectorAll('details').forEach((part) => { part.open = true; })"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    place = next(filter(None, map(shutil.which, BROWSERS)), None)
    if place is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=place, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_full_report(tmp_path_factory.mktemp("browser"))


@pytest.fixture
def open_page(chromium, report):
    """Opens the page; at the end of a test no page may have asked for anything or written an error."""
    contexts, noise = [], []

    def open_report(quiet=True, **options):
        context = chromium.new_context(**{"viewport": {"width": 1100, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        if quiet:
            page.on("console", lambda message: noise.append(f"{message.type}: {message.text}"))
            page.on("pageerror", lambda error: noise.append(str(error)))
            page.on("request", lambda request: noise.append(request.url))
        page.goto(report.as_uri())
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert [line for line in noise if line != report.as_uri() and not line.startswith("data:image/")] == []


def canvas(page, change):
    """The viewer's picture after a change, once it has been drawn."""
    before = page.locator("#v-canvas").get_attribute("data-drawn")
    change()
    page.wait_for_function("before => document.getElementById('v-canvas').dataset.drawn !== before", arg=before)
    return page.evaluate("document.getElementById('v-canvas').toDataURL()")


def drawn(page):
    page.wait_for_function("() => document.getElementById('v-canvas').dataset.drawn")
    return page.evaluate("document.getElementById('v-canvas').toDataURL()")


def pixels(uri):
    """The pixels (h, w, 3) RGB of a canvas."""
    content = np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8)
    return cv2.imdecode(content, cv2.IMREAD_COLOR)[:, :, ::-1]


def shown(page):
    return [thumb.get_attribute("aria-label") for thumb in page.locator("#v-thumbs button:visible").all()]


def test_the_sliders_change_the_picture(open_page):
    page = open_page()
    first = drawn(page)
    assert "Block 5 found no positive evidence for 균열 here." in page.locator("#v-empty").inner_text()
    page.locator("#v-block").focus()
    second = canvas(page, lambda: page.keyboard.press("ArrowLeft"))
    assert second != first
    assert page.locator("#v-block-name").inner_text() == "4"
    assert page.locator("#v-empty").inner_text() == ""
    third = canvas(page, lambda: page.locator("#v-rule").select_option("layercam"))
    assert third != second
    of_true = canvas(page, lambda: page.locator("#v-class").select_option("true"))
    assert of_true != third
    assert "map of\n<b>hole</b>" in page.locator("#v-about").inner_text()
    plain = canvas(page, lambda: page.locator("#v-strength").fill("0"))
    assert plain != of_true
    assert canvas(page, lambda: page.locator("#v-block").fill("0")) == plain  # without a map all blocks look the same
    assert canvas(page, lambda: page.locator("#v-outline").uncheck()) != plain


def test_the_fold_that_tested_an_image_is_named(open_page):
    page = open_page()
    assert "tested in" not in page.locator("#v-about").inner_text()
    page.click("#v-next")
    assert "tested in\nfold 2" in page.locator("#v-about").inner_text()


def test_a_map_has_the_colours_of_the_plots(open_page):
    """At Block 1, where the maps are 1 everywhere, all of the picture is inferno's last colour at the strength that is set."""
    page = open_page()
    page.locator("#v-outline").uncheck()
    page.locator("#v-block").fill("0")
    plain = pixels(canvas(page, lambda: page.locator("#v-strength").fill("0")))
    seen = pixels(canvas(page, lambda: page.locator("#v-strength").fill("80")))
    expected = overlay(plain, np.ones(plain.shape[:2]), 0.8)
    assert plain.shape == (336, 448, 3)
    assert np.abs(seen.astype(int) - expected).max() <= 3  # the map is a JPEG


def test_filters_and_the_keyboard(open_page):
    page = open_page()
    assert page.locator("#v-count").inner_text() == "12 images, 3 wrong."
    page.locator("#v-answer").select_option("wrong")
    assert page.locator("#v-count").inner_text() == "3 images, 3 wrong."
    assert len(shown(page)) == 3
    assert all("predicted" in name for name in shown(page))
    page.locator("#v-sure").select_option("0.9-1.1")
    assert len(shown(page)) == 1
    page.locator("#v-true").select_option("2")
    assert page.locator("#v-count").inner_text() == "No image on this page is like that."
    assert not page.locator("#v-canvas").is_visible()
    page.locator("#v-reset").click()
    assert len(shown(page)) == 12
    page.locator("#v-stage").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#v-place").inner_text() == "3 of 12"
    page.keyboard.press("ArrowDown")
    assert page.locator("#v-block-name").inner_text() == "4"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")  # there is no Block 6
    assert page.locator("#v-block-name").inner_text() == "5"
    page.keyboard.press("ArrowLeft")
    assert page.locator("#v-place").inner_text() == "2 of 12"
    assert page.locator("#v-about").inner_text().startswith("✓ right")
    assert "alert(1)</script>.png" in page.locator("#v-about").inner_text()


def test_the_confusion_matrix_leads_to_its_images(open_page):
    page = open_page()
    images = make_viewed().images
    cell = page.locator('#confusion [data-true="1"][data-predicted="1"] button')
    total = cell.inner_text()
    cell.click()
    expected = [i for i in images if (i.true, i.predicted) == (1, 1)]
    assert shown(page) == [f"Image {images.index(i) + 1}: {CLASSES[1]}" for i in expected]
    assert f"Of {total} test images that are 균열 and predicted as 균열, {len(expected)} are" in (
        page.locator("#v-count").inner_text()
    )
    assert page.evaluate("document.activeElement.id") == "v-stage"
    page.locator("#v-return a").click()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == cell.get_attribute("aria-label")
    page.locator("#v-reset").click()
    assert not page.locator("#v-return").is_visible()
    page.locator("#every-class summary").click()
    page.locator("#per-class th button").first.focus()
    page.keyboard.press("Enter")
    assert len(shown(page)) == sum(i.true == 0 for i in images)


def test_a_cell_of_the_sweep_shows_its_curves_and_confusion(open_page):
    page = open_page()
    assert page.locator("#c-title").inner_text() == "Block 1-3 frozen with nag, the best combination on validation"
    assert page.locator("#c-scores path").count() == 2  # a line for each seed
    page.get_by_label(re.compile("of Block 1 frozen with sgd")).click()
    assert page.locator("#c-title").inner_text() == "Block 1 frozen with sgd"
    assert page.locator("#sweep-table [aria-pressed=true]").count() == 1
    assert page.locator("#c-scores path").count() == 4  # and the best cell's beside them
    assert page.locator("#c-losses path").count() == 8
    page.locator("#c-beside").uncheck()
    page.locator("#c-val-loss").uncheck()
    assert page.locator("#c-losses path").count() == 2
    page.locator("#c-train-loss").uncheck()
    assert not page.locator("#c-losses").is_visible()
    cells = page.locator("#c-confusion td").all_inner_texts()
    assert sum(int(text) for text in cells if text != "·") == 30
    assert page.locator("#c-confusion th").all_inner_texts()[1] == CLASSES[0]


def test_the_threshold_view(open_page, report):
    page = open_page()
    page.locator("#thresholds summary").click()
    data = json.loads(re.search(r'id="report-data">(.*?)</script>', report.read_text(), re.S)[1])["thresholds"]
    names, rows = page.locator("#t-class option").all_inner_texts(), page.locator("#t-table tbody tr").all()
    assert page.locator("#t-class").input_value() == str(data["first"])
    for number, row in enumerate(rows):  # the script chooses as the table that was written in Python
        page.locator("#t-class").select_option(str(number))
        threshold, missed, false = row.locator("td").all_inner_texts()
        assert page.locator("#t-value").inner_text() == threshold
        said = page.locator("#t-missed").inner_text()
        assert said.startswith(missed.split(" [")[0] + f" test images of {names[number]}")
        assert page.locator("#t-false").inner_text().startswith(false.split(" [")[0])
    dear = data["grid"].index(float(page.locator("#t-value").inner_text()))
    page.locator("#t-ratio").fill("0.1")
    assert data["grid"].index(float(page.locator("#t-value").inner_text())) >= dear
    page.locator("#t-at").fill("0")
    assert page.locator("#t-value").inner_text() == "0.001"
    page.locator("#t-choose").click()
    assert page.locator("#t-value").inner_text() != "0.001"


def test_the_cost_of_a_miss_is_checked_and_the_table_follows_it(open_page):
    page = open_page()
    page.locator("#thresholds summary").click()
    table, ratio, problem = page.locator("#t-table tbody"), page.locator("#t-ratio"), page.locator("#t-problem")
    written = table.inner_text()
    for wrong in ("0", "-3", ""):
        ratio.fill(wrong)
        assert problem.inner_text() == "The cost must be a number above 0. The figures below are for 10."
        assert ratio.get_attribute("aria-invalid") == "true"
        assert table.inner_text() == written
    ratio.fill("10")
    assert problem.inner_text() == ""
    assert table.inner_text() == written  # by the script as by Python
    assert not page.locator("#t-useless").is_visible()
    ratio.fill("3")
    number = int(page.locator("#t-class").input_value())
    assert page.locator("#t-ratio-shown").inner_text() == "3"
    assert table.inner_text() != written
    assert table.locator("tr").nth(number).locator("td").first.inner_text() == page.locator("#t-value").inner_text()
    page.evaluate(
        "() => report.thresholds.classes.forEach(({ chosen }) => chosen.missed.fill(chosen.of))"
    )  # nothing is found
    ratio.fill("0.001")
    name = page.locator("#t-class option").nth(number).inner_text()
    assert page.locator("#t-useless").inner_text() == (
        f"No threshold helps for {name} at this cost: on validation images, answering {name} for none of them costs no more."
    )


def test_commands_are_copied(open_page):
    page = open_page()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    commands, buttons = page.locator("#next code[data-copy]").all_inner_texts(), page.locator("#next .copy")
    buttons.first.click()
    page.wait_for_function("() => document.querySelectorAll('#next .copy')[0].textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()") == commands[0]
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('refused')); }")
    buttons.nth(1).click()
    page.wait_for_function("() => document.querySelectorAll('#next .copy')[1].textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()") == commands[1]


@pytest.mark.parametrize("scripts", [True, False])
def test_words_open_their_meaning_by_keyboard(open_page, scripts):
    page = open_page(java_script_enabled=scripts)
    word = page.locator("#verdict .term").first
    meaning = page.locator("#" + word.get_attribute("popovertarget"))
    assert not meaning.is_visible()
    word.focus()
    page.keyboard.press("Enter")
    assert meaning.is_visible()
    page.keyboard.press("Escape")
    assert not meaning.is_visible()


def test_a_doubtful_label_is_found_from_its_cell(open_page):
    page = open_page()
    page.locator("#confusion .flagged").first.click()
    assert page.locator("#pair-1-2").is_visible()  # in a part that was folded
    assert page.locator("tr:target").get_attribute("id") == "pair-1-2"


def test_the_contents_stay_in_sight_and_nothing_is_cut(open_page):
    page = open_page()
    page.locator("nav a", has_text="Advice").click()
    assert page.locator("nav").bounding_box()["y"] == 0
    assert page.locator("#advice h2").bounding_box()["y"] >= page.locator("nav").bounding_box()["height"]
    page.locator("#advice summary").click()
    widths = "table => [table.parentElement.scrollWidth, table.parentElement.clientWidth]"
    needed, given = page.locator("#advice .many").evaluate(widths)
    assert needed <= given


def test_dark_narrow_and_print(open_page):
    light, dark = (open_page(color_scheme=scheme) for scheme in ("light", "dark"))
    paper = [page.evaluate("getComputedStyle(document.body).backgroundColor") for page in (light, dark)]
    assert paper[0] == "rgb(255, 255, 255)"
    assert paper[1] != paper[0]
    assert [page.locator(".chart").first.evaluate("e => getComputedStyle(e).filter") for page in (light, dark)] == [
        "none",
        "invert(1) hue-rotate(180deg)",
    ]
    light.emulate_media(media="print")
    assert not light.locator("#viewer").is_visible()
    assert light.locator("#maps details img").first.is_visible()
    assert light.locator("#confusion").is_visible()
    assert light.locator("#thresholds tbody tr").first.is_visible()
    narrow = open_page(viewport={"width": 360, "height": 800})
    narrow.evaluate(OPEN_ALL)
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 360
    box = narrow.locator("#v-canvas").bounding_box()
    assert 250 < box["width"] <= 360


def test_without_javascript_nothing_is_lost(open_page):
    page = open_page(java_script_enabled=False)
    assert not page.locator("#viewer").is_visible()
    assert page.locator("noscript p").is_visible()
    assert page.locator("button:not(.term):visible").count() == 0
    for summary in ("#every-class summary", "#thresholds summary", "#strips summary"):
        page.locator(summary).click()
    for part in ("#confusion", "#per-class", "#sweep-table", "#thresholds table"):
        assert page.locator(part).is_visible()
    assert page.locator("#maps details img").first.is_visible()


def test_the_policy_stops_other_scripts_and_requests(open_page):
    page = open_page(quiet=False)
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.added = true";
            document.body.append(script);
        }"""
    )
    assert page.evaluate("window.added") is None
    assert page.evaluate("fetch('data:text/plain,x').then(() => 'sent', () => 'refused')") == "refused"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page, scheme):
    axe = pytest.importorskip("axe_core_python.sync_playwright", reason="axe-core-python is not installed")
    page = open_page(color_scheme=scheme)
    drawn(page)
    page.evaluate(OPEN_ALL)
    found = axe.Axe().run(page)["violations"]
    serious = [
        (v["id"], [(node["target"], node["any"][:1] and node["any"][0]["message"]) for node in v["nodes"][:4]])
        for v in found
        if v["impact"] in ("serious", "critical")
    ]
    assert serious == []
