"""What the studio answers, and what it refuses."""

import base64
import csv
import io
import re
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xaitune.data.dataset import ImageData
from xaitune.data.images import read_image
from xaitune.evaluate.reliability import check_calls, check_maps
from xaitune.explain.gradcam import gradcam_blocks
from xaitune.studio.app import UPLOAD_LIMIT, make_app

HOST = "http://127.0.0.1:8601"


@pytest.fixture(scope="module")
def images(client):
    """The test images of the run 'first'."""
    found = client.get("/api/images", params={"run": "first"}).json()["images"]
    return [each for each in found if each["split"] == "test"]


@pytest.fixture
def no_marks(runs_dir):
    """The path of label-fixes.csv, which is not there."""
    path = runs_dir / "label-fixes.csv"
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)


def png(width=40, height=30):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def picture(uri):
    """The pixels in a data URI."""
    assert uri.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def refused(answer, status):
    """The message of a refusal."""
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def finished(client, number, seconds=240):
    """A job that has ended."""
    end = time.monotonic() + seconds
    while (job := client.get(f"/api/jobs/{number}").json())["state"] == "running":
        assert time.monotonic() < end, job
        time.sleep(0.2)
    return job


# ---- the page


def test_page_is_one_file_that_may_ask_itself_alone(client, app):
    answer = client.get("/")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"
    assert app.state.studio.token in answer.text
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", answer.text)
    assert "http://" not in answer.text
    assert "https://" not in answer.text


def test_runs_and_images(client, images, run):
    answer = client.get("/api/runs").json()
    assert answer["problems"] == []
    assert {each["name"] for each in answer["runs"]} == {"first", "second"}
    first = answer["runs"][0]
    assert first["classes"] == list(run.class_names)
    assert first["methods"] == ["gradcam", "cam", "lime"]
    assert first["depth"] == 3
    assert first["score"] == f"macro F1 {run.score():.3f}"
    assert first["about"] == "Block 1-3 frozen"
    test = run.predictions.query("split == 'test'")
    assert [each["file"] for each in images] == list(test["file"])
    assert sum(each["right"] for each in images) == (test["true"] == test["predicted"]).sum()


def test_a_damaged_run_is_named_and_the_others_are_shown(run, tmp_path):
    import shutil

    from xaitune.studio.catalogue import Catalogue

    for name in ("good", "bad"):
        shutil.copytree(run.path, tmp_path / name)
    (tmp_path / "bad" / "predictions.csv").unlink()
    shown, problems = Catalogue(tmp_path).summaries()
    assert [each["name"] for each in shown] == ["good"]
    assert len(problems) == 1
    assert "predictions.csv" in problems[0]


def test_runs_of_sweeps_are_found_and_a_removed_run_is_gone(run, tmp_path):
    import shutil

    from xaitune.studio.catalogue import Catalogue, NotServed

    for name in ("sweep/fold1/cell", "sweep/other", "own"):
        shutil.copytree(run.path, tmp_path / name)
    catalogue = Catalogue(tmp_path)
    assert list(catalogue.paths()) == ["own", "sweep/other", "sweep/fold1/cell"]
    kept = catalogue.run("sweep/fold1/cell")
    assert catalogue.run("sweep/fold1/cell") is kept
    shutil.rmtree(kept.path)
    with pytest.raises(NotServed):
        catalogue.run("sweep/fold1/cell")


def test_thumbnail(client, images):
    answer = client.get("/thumbnail", params={"run": "first", "file": images[0]["file"]})
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.content)).size == (96, 96)


# ---- explanations


def test_heatmaps_are_those_of_gradcam_blocks(client, images, run):
    file = images[0]["file"]
    answer = client.post("/api/explain", json={"run": "first", "file": file, "rule": "layercam"}).json()
    expected = gradcam_blocks(run, f"{run.data_config.path}/{file}", rule="layercam")
    assert answer["explained"] == answer["predicted"] == expected.explained(0) == images[0]["predicted"]
    assert dict(answer["probabilities"])[answer["predicted"]] == pytest.approx(expected.probabilities.max(), abs=1e-4)
    assert [panel["title"] for panel in answer["panels"]] == [f"Block {b}" for b in range(1, 6)]
    for panel, block in zip(answer["panels"], expected.blocks, strict=True):
        assert picture(panel["picture"]).shape == (320, 320, 3)
        assert not panel["checked"]
        assert panel["doubts"] == ["no positive evidence"] * bool(expected.is_zero[0, block - 1])
        if not panel["doubts"]:
            assert float(panel["note"].removeprefix("peak ")) == pytest.approx(expected.raw[block].max(), rel=0.06)


def test_another_class_and_another_run_on_the_same_image(client, images, run):
    other = next(name for name in run.class_names if name != images[0]["predicted"])
    asked = {"run": "second", "source": "first", "file": images[0]["file"], "class": other}
    answer = client.post("/api/explain", json=asked).json()
    assert answer["explained"] == other
    assert other in dict(answer["probabilities"])
    assert answer["predicted"] == images[0]["predicted"]
    assert answer["run"] == "second"


def test_checks_are_those_of_check_maps(client, images, run):
    file = images[0]["file"]
    ended = finished(client, client.post("/api/check", json={"run": "first", "file": file}).json()["number"])
    assert ended["state"] == "finished", ended["text"]
    assert ended["done"] == ended["total"] == check_calls(1, 5, 1)
    maps = gradcam_blocks(run, f"{run.data_config.path}/{file}")
    checks = check_maps(maps, run)
    shown = [(panel["checked"], tuple(panel["doubts"])) for panel in ended["result"]["panels"]]
    assert shown == [(True, checks.of_map(0, block)) for block in checks.blocks]
    asked = {"run": "first", "file": file, "method": "lime"}
    ended = finished(client, client.post("/api/check", json=asked).json()["number"])
    assert ended["state"] == "failed"
    assert "method must be one of" in ended["text"]


def test_checks_stop_before_the_next_maps(client, images, run):
    steps = []

    def stop(done, total):
        steps.append(done)
        if len(steps) == 4:
            raise KeyboardInterrupt

    pixels = read_image(Path(run.data_config.path) / images[0]["file"])
    with pytest.raises(KeyboardInterrupt):
        client.app.state.studio.explainers.checked_heatmaps(run, pixels, "gradcam", "gradcam", None, stop)
    assert steps == [0, 3, 6, 9]


def test_cam_has_one_map(client, images):
    answer = client.post("/api/explain", json={"run": "first", "file": images[0]["file"], "method": "cam"}).json()
    assert [panel["block"] for panel in answer["panels"]] == [5]


def test_upload_is_explained_from_memory(client, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = client.post("/api/uploads", params={"name": "../부품.png"}, content=png()).json()
    assert kept["name"] == "부품.png"
    answer = client.post("/api/explain", json={"run": "first", "upload": kept["upload"]}).json()
    assert answer["size"] == [40, 30]
    assert picture(answer["image"]).shape == (240, 320, 3)
    assert list(tmp_path.iterdir()) == []


def test_lime_reports_its_progress_and_its_result(client, images):
    job = client.post("/api/lime", json={"run": "first", "file": images[0]["file"]}).json()
    ended = finished(client, job["number"])
    assert ended["state"] == "finished", ended["text"]
    assert ended["done"] == ended["total"] == 1000
    assert ended["result"]["panels"][0]["title"] == "Superpixels"
    assert client.get("/api/jobs").json()["jobs"] == []  # it lists processes


def test_lime_can_be_stopped(client, images):
    with client.app.state.studio.explainers._lock:  # the model is busy
        job = client.post("/api/lime", json={"run": "first", "file": images[0]["file"]}).json()
        client.post(f"/api/jobs/{job['number']}/stop", json={})
    assert finished(client, job["number"])["state"] == "stopped"


def test_segmentation_shows_classes_of_pixels_and_has_no_lime(segmented):
    from starlette.testclient import TestClient

    app = make_app(segmented.path.parent, 8601)
    with TestClient(app, base_url=HOST) as client:
        client.headers["x-studio-token"] = app.state.studio.token
        name = segmented.path.name
        (shown,) = client.get("/api/runs").json()["runs"]
        assert shown["segments"]
        assert shown["methods"] == ["gradcam"]
        file = client.get("/api/images", params={"run": name}).json()["images"][0]["file"]
        answer = client.post("/api/explain", json={"run": name, "file": file}).json()
        assert [p["title"] for p in answer["panels"]] == ["Predicted classes", *(f"Block {b}" for b in range(1, 6))]
        assert answer["predicted"] in segmented.class_names
        assert sum(share for _, share in answer["probabilities"]) == pytest.approx(1)  # three classes
        assert "use gradcam" in refused(client.post("/api/lime", json={"run": name, "file": file}), 400)
        asked = {"run": name, "file": file, "action": "relabel", "new_class": segmented.class_names[1]}
        assert "learns from masks" in refused(client.post("/api/marks", json=asked), 400)


# ---- marks


def test_marks_are_label_fixes(client, images, run, no_marks):
    names = [each["file"] for each in images]
    other = next(name for name in run.class_names if name != images[0]["true"])
    for file, action, new in ((names[0], "keep", ""), (names[0], "relabel", other), (names[1], "drop", "")):
        asked = {"run": "first", "file": file, "action": action, "new_class": new}
        answer = client.post("/api/marks", json=asked).json()
    assert [mark["file"] for mark in answer["marks"]] == [names[1], names[0]]
    assert answer["command"].endswith(f"--label-fixes {no_marks}")
    rows = list(csv.DictReader(no_marks.open(encoding="utf-8")))
    assert [(row["file"], row["action"], row["new_class"]) for row in rows] == [
        (names[0], "relabel", other),
        (names[1], "drop", ""),
    ]
    from xaitune.config.settings import replace_fields

    data = ImageData.from_config(replace_fields(run.data_config, {"label_fixes": str(no_marks)}))
    assert data.class_names[data.labels[data.files.index(names[0])]] == other
    assert names[1] not in data.files


def test_marks_can_be_taken_back_and_keep_other_columns(client, images, no_marks):
    no_marks.write_text("file,action,why\nother.png,keep,seen\n", encoding="utf-8")
    file = images[0]["file"]
    client.post("/api/marks", json={"run": "first", "file": file, "action": "drop"})
    assert "other.png,keep,seen" in no_marks.read_text(encoding="utf-8")
    client.post("/api/marks", json={"run": "first", "file": file, "action": "none"})
    assert file not in no_marks.read_text(encoding="utf-8")
    no_marks.unlink()
    client.post("/api/marks", json={"run": "first", "file": file, "action": "drop"})
    client.post("/api/marks", json={"run": "first", "file": file, "action": "none"})
    assert not no_marks.exists()  # a CSV without rows would be refused by --label-fixes


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"action": "delete"}, 400, "action must be one of"),
        ({"action": "relabel", "new_class": "nowhere"}, 400, "must be one of"),
        ({"file": "../../etc/passwd"}, 404, "has no image"),
        ({"file": None}, 404, "has no image"),
        ({"run": "nothing"}, 404, "no finished run"),
    ],
)
def test_wrong_marks_are_refused(client, images, no_marks, change, status, said):
    asked = {"run": "first", "file": images[0]["file"], "action": "keep"} | change
    assert said in refused(client.post("/api/marks", json=asked), status)
    assert not no_marks.exists()


def test_marks_of_two_image_folders_are_not_mixed(client, images, no_marks):
    no_marks.write_text("file,action,new_class,images\na.png,drop,,/elsewhere\n", encoding="utf-8")
    asked = {"run": "first", "file": images[0]["file"], "action": "keep"}
    assert "about the images in /elsewhere" in refused(client.post("/api/marks", json=asked), 400)


def test_a_file_that_is_no_csv_of_fixes_is_named(client, no_marks):
    no_marks.write_text("name,fault\n1,2\n", encoding="utf-8")
    assert "lacks the column 'file'" in refused(client.get("/api/marks", params={"run": "first"}), 400)


# ---- trainings and advice


def test_training_runs_to_its_end_and_its_run_appears(client, runs_dir):
    asked = {"command": "train", "run": "first", "freeze_through": 5, "epochs": 1, "optimizer": "sgd"}
    job = client.post("/api/jobs", json=asked).json()
    assert "is running" in refused(client.post("/api/jobs", json=asked), 409)
    ended = finished(client, job["number"])
    assert ended["state"] == "finished", "\n".join(ended["lines"])
    assert ended["lines"][0].startswith("$ xaitune train")
    assert any(line.startswith("Wrote ") for line in ended["lines"])
    assert "freeze5-sgd-seed0" in [each["name"] for each in client.get("/api/runs").json()["runs"]]


def test_advice_can_be_stopped(client):
    job = client.post("/api/jobs", json={"command": "advise", "run": "first"}).json()
    client.post(f"/api/jobs/{job['number']}/stop", json={})
    assert finished(client, job["number"], 30)["state"] == "stopped"
    assert client.get("/api/jobs").json()["jobs"][0]["title"] == "Advice like first"


def test_a_failed_training_says_why(client):
    job = client.post("/api/jobs", json={"command": "train", "run": "first", "freeze_through": 9}).json()
    ended = finished(client, job["number"])
    assert ended["state"] == "failed"
    assert ended["text"].startswith("Error: freeze_through must be")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"command": "rm"}, "command must be one of"),
        ({"command": "train", "run": "first", "epochs": "1; reboot"}, "whole number"),
        ({"command": "train", "run": "first", "optimizer": "--overwrite"}, "optimizer must be one of"),
    ],
)
def test_wrong_commands_are_refused(client, asked, said):
    assert said in refused(client.post("/api/jobs", json=asked), 400)


# ---- refusals


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8601", "127.0.0.1", "127.0.0.1:80", "localhost", ""])
def test_other_host_names_are_refused(client, host):
    assert "answers only as" in refused(client.get("/", headers={"host": host}), 400)
    assert client.get("/", headers={"host": "localhost:8601"}).status_code == 200


@pytest.mark.parametrize(
    "change", [{"x-studio-token": ""}, {"x-studio-token": "ü".encode()}, {"origin": "http://evil.example"}]
)
def test_changes_that_the_page_did_not_ask_for_are_refused(client, change):
    for path in (
        "/api/uploads",
        "/api/explain",
        "/api/check",
        "/api/lime",
        "/api/marks",
        "/api/jobs",
        "/api/jobs/1/stop",
    ):
        assert "own page" in refused(client.post(path, json={}, headers=change), 403)


def test_large_uploads_are_refused_before_they_are_read(client):
    big = bytes(UPLOAD_LIMIT + 1)
    assert "larger than 15 MB" in refused(client.post("/api/uploads?name=big.png", content=big), 413)
    unannounced = (bytes(1_000_000) for _ in range(20))
    assert "larger than 15 MB" in refused(client.post("/api/uploads?name=big.png", content=unannounced), 413)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"a list of parts", "is not an image in a known format"), (b"", "is empty"), (png()[:200], "is damaged")],
)
def test_uploads_that_are_no_images_are_refused(client, content, said):
    message = refused(client.post("/api/uploads?name=part.png", content=content), 400)
    assert message.startswith("part.png")
    assert said in message


@pytest.mark.parametrize("file", ["../secret.png", "/etc/passwd", "..\\secret.png", "", "crack/../../secret.png"])
def test_paths_outside_are_not_served(client, runs_dir, file):
    (runs_dir / "secret.png").write_bytes(png())
    assert "has no image" in refused(client.get("/thumbnail", params={"run": "first", "file": file}), 404)
    assert "has no image" in refused(client.post("/api/explain", json={"run": "first", "file": file}), 404)
    assert client.get(f"/{file}").status_code in (200, 404)
    assert "no finished run" in refused(client.get("/thumbnail", params={"run": "../first", "file": "a"}), 404)


def test_links_and_predictions_that_lead_outside_are_not_served(run, tmp_path):
    import shutil

    from xaitune.studio.catalogue import Catalogue, NotServed

    secret, (linked, changed, real) = tmp_path / "secret.png", run.predictions["file"][:3]
    secret.write_bytes(png())
    shutil.copytree(run.path, tmp_path / "first")
    shutil.copytree(run.data_config.path, tmp_path / "images")
    (tmp_path / "images" / linked).unlink()
    (tmp_path / "images" / linked).symlink_to(secret)
    for name, old, new in (
        ("config.json", run.data_config.path, str(tmp_path / "images")),
        ("predictions.csv", changed, str(secret)),
    ):
        file = tmp_path / "first" / name
        file.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    catalogue = Catalogue(tmp_path)
    assert catalogue.image_path("first", real) == (tmp_path / "images" / real).resolve()
    for file in (linked, str(secret)):
        with pytest.raises(NotServed, match="There is no image"):
            catalogue.image_path("first", file)


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b"\xff"])
def test_bodies_that_are_no_objects_are_refused(client, body):
    assert "JSON object" in refused(client.post("/api/explain", content=body), 400)


def test_other_wrong_questions(client, images):
    file = images[0]["file"]
    for change, said in (
        ({"method": "lime"}, "method must be one of"),
        ({"rule": "best"}, "rule must be one of"),
        ({"class": "nowhere"}, "Unknown class"),
    ):
        assert said in refused(client.post("/api/explain", json={"run": "first", "file": file} | change), 400)
    assert "not kept any more" in refused(client.post("/api/explain", json={"run": "first", "upload": 99}), 404)
    assert "no job 99" in refused(client.get("/api/jobs/99"), 404)
