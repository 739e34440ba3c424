"""A real MLflow server on the loopback."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import suppress

import pytest
from driving import wait_for


def free_port():
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_server(folder, port):
    """Start `mlflow server` on a port, in a session of its own; its database and artifacts are in `folder`."""
    own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    options = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "kept")]
    options += ["--workers", "1"]
    with (folder / "server.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), *options],
            cwd=folder,
            stdout=log,
            stderr=log,
            env=os.environ | own,
            start_new_session=True,
        )


def stop_server(process):
    """End a server and the processes that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def answers(uri):
    """Whether a server is ready."""
    with suppress(OSError):
        return urllib.request.urlopen(f"{uri}/health", timeout=2).status == 200
    return False


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The address of a running MLflow server."""
    for module in ("mlflow", "sqlalchemy", "alembic", "flask", "flask_cors", "aiohttp"):
        pytest.importorskip(module)
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    process = start_server(folder, port)
    try:

        def ready():
            assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
            return answers(f"http://127.0.0.1:{port}")

        wait_for(ready, seconds=240)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop_server(process)
