"""The studio driven as a person would, in a real browser, with every address but this machine's cut off."""

import contextlib
import io
import json
import re
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from driving import start
from PIL import Image

CHROMIUM = Path("/usr/bin/chromium")
KOREAN = "기공"  # porosity
WAIT = 120_000  # milliseconds, since the first explanation loads TensorFlow
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@pytest.fixture(scope="module")
def loopback_only():
    """This process can reach no other machine."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
            raise OSError(f"{address} is cut off")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@contextlib.contextmanager
def served(folder, first_port):
    """The address of a studio that is being served."""
    import uvicorn

    from xaitune.studio.app import make_app
    from xaitune.studio.server import listen

    listening = listen(first_port)
    port = listening.getsockname()[1]
    config = uvicorn.Config(make_app(folder, port), log_level="error", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def address(runs_dir, loopback_only):
    with served(runs_dir, 18601) as address:
        yield address


@pytest.fixture(scope="module")
def korean_dir(run, tmp_path_factory):
    """A run whose first class has a Korean name."""
    folder = tmp_path_factory.mktemp("korean") / "run"
    shutil.copytree(run.path, folder)
    first = run.class_names[0]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["class_names"] = [KOREAN, *config["class_names"][1:]]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    table = pd.read_csv(folder / "predictions.csv", dtype=str).rename(columns={f"p({first})": f"p({KOREAN})"})
    table[["true", "predicted"]] = table[["true", "predicted"]].replace(first, KOREAN)
    table.to_csv(folder / "predictions.csv", index=False)
    return folder.parent


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if not CHROMIUM.is_file():
        pytest.skip(f"needs a Chromium at {CHROMIUM}")
    arguments = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@pytest.fixture
def page(browser, address):
    """The page, loaded. Whatever a test does, it asks no other address and the console shows no error."""
    page, wrong = browser.new_page(), []
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith((address, "data:")) else wrong.append(asked.url))
    page.set_default_timeout(WAIT)
    page.goto(address)
    page.wait_for_selector("#gallery button")
    yield page
    page.close()
    # A refusal is a status of 4xx, which the browser notes in its console.
    assert [text for text in wrong if not text.startswith("Failed to load resource")] == []


def png():
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def explained(page):
    """Wait until what was asked for is drawn; the titles of the pictures, run by run."""
    page.wait_for_selector("#results[aria-busy=false]")
    results = page.locator(".result")
    return [
        [text.split("\n")[0] for text in results.nth(i).locator("figcaption:visible").all_inner_texts()]
        for i in range(results.count())
    ]


def upload(page, name, content):
    page.set_input_files("#pick", {"name": name, "mimeType": "image/png", "buffer": content})


def message(page):
    page.wait_for_selector("#message:not([hidden])")
    return page.inner_text("#message")


BLOCKS = ["Image", *(f"Block {b}" for b in range(1, 6))]


def test_upload_and_explain(page):
    upload(page, "part.png", png())
    page.wait_for_selector(".result figure")
    assert explained(page) == [BLOCKS]
    assert page.locator(".result .bars meter").count() == 5
    assert page.is_hidden("#marking")  # an upload has no label
    page.select_option("#rule", "hirescam")
    assert explained(page) == [BLOCKS]
    page.uncheck("#blocks input[value='2']")
    assert explained(page) == [[title for title in BLOCKS if title != "Block 2"]]
    page.select_option("#method", "cam")
    assert explained(page) == [["Image", "Block 5"]]


def test_drop_an_image(page):
    data = page.evaluate_handle(
        """(bytes) => {
            const held = new DataTransfer();
            held.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
            return held;
        }""",
        list(png()),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    page.wait_for_selector(".result figure")
    assert explained(page) == [BLOCKS]


def test_filters_and_keyboard(page):
    everything = page.locator("#gallery button").count()
    page.select_option("#filter-answer", "wrong")
    wrong = page.locator("#gallery button").count()
    assert page.locator("#gallery .wrong").count() == wrong
    page.select_option("#filter-answer", "right")
    assert wrong + page.locator("#gallery button").count() == everything
    page.select_option("#filter-answer", "")
    page.focus("#gallery button")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector(".result figure")
    assert page.locator("#gallery button").nth(1).get_attribute("aria-pressed") == "true"
    assert page.locator("#gallery button:focus").get_attribute("aria-pressed") == "true"


def test_two_runs_side_by_side(page):
    page.select_option("#other", "second")
    page.click("#gallery button >> nth=0")
    page.wait_for_selector(".result >> nth=1")
    assert explained(page) == [BLOCKS, BLOCKS]
    chosen = page.input_value("#run")
    assert page.locator(".result h3").all_inner_texts() == [chosen, "second"]


def test_maps_are_checked_on_request(page):
    assert page.is_disabled("#check")
    page.click("#gallery button >> nth=0")
    page.wait_for_selector(".result figure")
    explained(page)
    assert page.locator("figcaption .passed").count() == 0
    page.click("#check")
    page.wait_for_function("() => document.querySelectorAll('figcaption .passed, figcaption .doubt').length === 5")
    assert explained(page) == [BLOCKS]
    marks = page.locator("figcaption .passed, figcaption .doubt").all_inner_texts()
    assert len(marks) == 5
    assert all(text == "✓ no check failed" or text.startswith("⚠ ") for text in marks)
    doubtful = page.locator("figcaption .doubt").count()
    assert ("should not be relied on" in page.inner_text("#status")) == (doubtful > 0)
    assert page.is_disabled("#check")  # they are checked
    page.select_option("#rule", "layercam")
    explained(page)
    assert page.locator("figcaption .passed").count() == 0
    assert page.is_enabled("#check")
    page.select_option("#method", "lime")
    assert page.is_hidden("#check")


def test_stop_ends_the_checks_of_both_runs(page):
    page.select_option("#other", "second")
    page.click("#gallery button >> nth=0")
    page.wait_for_selector(".result >> nth=1")
    explained(page)
    job, asked, stopping = {"number": 7, "title": "Checks", "done": 3, "total": 76, "text": ""}, [], []

    def begin(route):
        asked.append(route.request.post_data_json["run"])
        route.fulfill(json=job | {"state": "running"})

    def stop(route):
        stopping.append(True)
        route.fulfill(json=job | {"state": "running"})

    page.route("**/api/check", begin)
    page.route("**/api/jobs/7", lambda route: route.fulfill(json=job | {"state": "stopped" if stopping else "running"}))
    page.route("**/api/jobs/7/stop", stop)
    page.click("#check")
    page.click("#status button")
    page.wait_for_selector("text=The checks were stopped.")
    explained(page)
    assert asked == [page.input_value("#run")]  # the second run was not asked


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page, scheme):
    axe = pytest.importorskip("axe_core_python.sync_playwright", reason="axe-core-python is not installed")
    page.emulate_media(color_scheme=scheme)
    page.click("#gallery button >> nth=0")
    page.wait_for_selector(".result figure")
    explained(page)
    page.click("[data-action=keep]")
    page.wait_for_selector("#marks td")
    found = axe.Axe().run(page)["violations"]
    page.click("#undo")
    page.wait_for_selector("#use-marks", state="hidden")
    nodes = [(v["id"], [(n["target"], n["any"][:1] and n["any"][0]["message"]) for n in v["nodes"][:4]]) for v in found]
    assert nodes == []


def test_korean_class_names(browser, korean_dir, loopback_only):
    with served(korean_dir, 18651) as address:
        page = browser.new_page()
        page.set_default_timeout(WAIT)
        page.goto(address)
        page.wait_for_selector("#gallery button")
        page.select_option("#filter-class", KOREAN)
        assert page.locator("#gallery button").first.locator("span").first.inner_text() == KOREAN
        assert page.locator("#gallery button span").first.get_attribute("lang") == "ko"
        page.select_option("#class", KOREAN)
        page.click("#gallery button >> nth=0")
        page.wait_for_selector(".result figure")
        explained(page)
        assert f"The maps are for {KOREAN}." in page.inner_text(".said")
        assert page.locator(".bars .chosen").inner_text() == KOREAN
        page.click("#relabel")  # to another class
        page.wait_for_selector("#marks td")
        rows = (korean_dir / "label-fixes.csv").read_text(encoding="utf-8").splitlines()
        assert len(rows) == 2
        page.close()


def test_lime_with_its_progress(page):
    page.select_option("#method", "lime")
    page.click("#gallery button >> nth=0")
    assert "press Explain" in page.inner_text("#status")
    page.click("#explain")
    page.wait_for_selector("figcaption >> text=Superpixels")
    assert explained(page) == [["Image", "Superpixels", "Speak for the class", "Speak against it", "All weights"]]


def test_mark_an_image_and_take_it_back(page, runs_dir):
    page.click("#gallery button >> nth=0")
    new = page.input_value("#new-class")
    page.click("#relabel")
    page.wait_for_selector("#marks td")
    file, _, shown = page.locator("#marks td").all_inner_texts()
    assert shown == new
    assert f"{file},relabel,{new}," in (runs_dir / "label-fixes.csv").read_text(encoding="utf-8")
    assert "--label-fixes" in page.inner_text("#marks-command")
    assert "⚑" in page.inner_text("#gallery button >> nth=0")
    page.click("#undo")
    page.wait_for_selector("#use-marks", state="hidden")
    assert not (runs_dir / "label-fixes.csv").exists()


def test_refused_uploads(page, address):
    upload(page, "big.png", bytes(20_000_000))
    assert message(page) == "big.png is larger than 15 MB, which is the limit. Scale it down or cut it into parts."
    upload(page, "notes.png", b"remember the milk")
    page.wait_for_function("() => document.getElementById('message').textContent.startsWith('notes.png')")
    assert "notes.png is not an image in a known format" in message(page)
    assert page.locator(".result").count() == 0
    outside = page.evaluate("async () => (await fetch('thumbnail?run=first&file=../../../etc/passwd')).status")
    assert outside == 404
    upload(page, "part.png", png())
    page.wait_for_selector(".result figure")
    assert page.is_hidden("#message")


def test_start_and_stop_an_advice(page):
    page.click("#advise")
    page.wait_for_selector(".job progress")
    assert "$ xaitune advise" in page.inner_text(".job pre")
    page.click(".job button")
    page.wait_for_selector(".job >> text=stopped")


def test_narrow_page_needs_no_sideways_scrolling(browser, address):
    page = browser.new_page(viewport={"width": 360, "height": 700}, color_scheme="dark")
    page.goto(address)
    page.wait_for_selector("#gallery button")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()


# ---- the command


def test_command_takes_the_next_port_and_ends_with_ctrl_c(runs_dir):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start(runs_dir, "studio", "--runs-dir", runs_dir, "--port", port, "--no-browser")
        said = [process.stdout.readline() for _ in range(2)]
        assert said[0] == f"Port {port} is in use, so this is port {_port(said[1])}.\n"
        with socket.create_connection(("127.0.0.1", _port(said[1])), timeout=30) as asking:
            asking.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{_port(said[1])}\r\nConnection: close\r\n\r\n".encode())
            assert asking.recv(12) == b"HTTP/1.1 200"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "The studio has ended.\n", "")


def _port(line):
    return int(re.search(r"http://127\.0\.0\.1:(\d+) ", line).group(1))


def test_command_ends_what_was_started_and_says_so(runs_dir):
    """Over the network as the page does it: the token is in the page, and the training ends with the studio."""
    import httpx

    process = start(runs_dir, "studio", "--runs-dir", runs_dir, "--port", 18700, "--no-browser")
    while "http://" not in (line := process.stdout.readline()):
        assert process.poll() is None
    address = f"http://127.0.0.1:{_port(line)}"
    token = re.search(r'studio-token" content="([^"]+)"', httpx.get(address).text).group(1)
    asked = {"command": "advise", "run": "first"}
    job = httpx.post(f"{address}/api/jobs", json=asked, headers={"x-studio-token": token}).json()
    assert job["state"] == "running"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert out.splitlines()[0] == "Advice like first was stopped. The same command goes on with it."
    assert process.returncode == 0


def test_command_names_the_extra_that_is_missing(tmp_path):
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError('none', name='uvicorn')", encoding="utf-8")
    import os

    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = start(tmp_path, "studio", "--no-browser", env=os.environ | {"PYTHONPATH": path})
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err == "Error: The studio needs a web server. Install it with: pip install 'xaitune[studio]'.\n"


def test_a_training_ends_with_the_studio(runs_dir):
    from xaitune.studio.jobs import Jobs

    jobs = Jobs()
    job = jobs.start_command("Training", ["advise", "--config", str(runs_dir / "first" / "config.json")])
    assert jobs.stop_all() == ["Training"]
    assert job.process.poll() is not None
    end = time.monotonic() + 10
    while job.state == "running":
        assert time.monotonic() < end
        time.sleep(0.05)
    assert job.state == "stopped"
