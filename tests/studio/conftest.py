"""A folder of two runs on the demo's images, and the studio's application on it."""

import shutil

import pytest

PORT = 8601


@pytest.fixture(scope="module")
def runs_dir(run, tmp_path_factory):
    """Two copies of the same run, 'first' and 'second'."""
    folder = tmp_path_factory.mktemp("studio-runs")
    for name in ("first", "second"):
        shutil.copytree(run.path, folder / name)
    return folder


@pytest.fixture(scope="module")
def app(runs_dir):
    from xaitune.studio.app import make_app

    return make_app(runs_dir, PORT)


@pytest.fixture(scope="module")
def client(app):
    """A client whose requests are those of the page: the right Host and token."""
    from starlette.testclient import TestClient

    with TestClient(app, base_url=f"http://127.0.0.1:{PORT}") as client:
        client.headers["x-studio-token"] = app.state.studio.token
        yield client
