"""Serving the studio: a free port of this machine alone, the browser, and the end with Ctrl-C."""

import contextlib
import errno
import socket
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

from xaitune._progress import Notes
from xaitune.errors import ConfigError
from xaitune.studio.app import make_app

HOST = "127.0.0.1"
TRIES = 50  # ports that are tried, one after another
QUIET: dict[str, Any] = {
    "log_level": "error",
    "access_log": False,
    "server_header": False,
    "timeout_graceful_shutdown": 5,
}


def listen(port: int) -> socket.socket:
    """A listening socket at the first free port from `port` on. Raises ConfigError where there is none."""
    for number in range(port, min(port + TRIES, 65536)):
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a studio that has just ended
        try:
            made.bind((HOST, number))
            made.listen(128)
            return made
        except OSError as error:
            made.close()
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
    raise ConfigError(f"No free port from {port} to {min(port + TRIES, 65536) - 1}. Choose another --port.")


def serve_studio(
    runs_dir: Path,
    port: int,
    *,
    browser: bool = True,
    say: Notes = print,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve the runs in a folder until Ctrl-C; work that was started here is then ended.

    `say` gets lines for the user; `ready` is called with the address as soon as it answers. Raises ConfigError without a port.
    """
    with contextlib.closing(listen(port)) as listening:
        chosen = listening.getsockname()[1]
        if chosen != port:
            say(f"Port {port} is in use, so this is port {chosen}.")
        url = f"http://{HOST}:{chosen}"
        app = make_app(runs_dir, chosen)
        server = uvicorn.Server(uvicorn.Config(app, ws="none", **QUIET))
        say(f"Studio of {runs_dir.resolve()}: {url} (Ctrl-C ends it)")
        ready(url)
        if browser:
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):  # the server ends in good order, then passes Ctrl-C on
            server.run(sockets=[listening])
        for title in (*app.state.ended, *app.state.studio.jobs.stop_all()):
            say(f"{title} was stopped. The same command goes on with it.")
    say("The studio has ended.")
