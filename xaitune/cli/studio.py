"""The command that serves a local page to look inside runs: studio."""

from typing import Annotated

from xaitune._files import make_folder
from xaitune.cli.options import Job, command, option
from xaitune.errors import ConfigError

PORT = 8601


@command("studio")
def studio(
    job: Job,
    port: Annotated[
        int,
        option(
            "--port", help="Port; the next free one if it is in use.", default=str(PORT), metavar="N", min=1, max=65535
        ),
    ] = PORT,
    no_browser: Annotated[bool, option("--no-browser", help="Do not open the browser.")] = False,
) -> None:
    """Look inside runs on a local page: explain images, compare runs, correct labels, start a training.

    It answers this machine alone, sends nothing anywhere, and ends with Ctrl-C.
    """
    try:
        from xaitune.studio.server import serve_studio
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise ConfigError("The studio needs a web server. Install it with: pip install 'xaitune[studio]'.") from None
    make_folder(job.runs_dir)
    serve_studio(
        job.runs_dir,
        port,
        browser=not no_browser,
        say=job.ui.say,
        ready=lambda url: job.ui.finish([], "", url=url),
    )
