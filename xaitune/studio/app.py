"""The studio's routes: a page, and what its script asks for as JSON."""

import contextlib
import hashlib
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from xaitune.config.choices import OPTIMIZERS, RULES
from xaitune.config.rules import require_choice
from xaitune.config.toml import CONFIG_FILE
from xaitune.data.images import read_image
from xaitune.errors import InputError, XaituneError
from xaitune.studio.access import OnlyOwnPage, TooLarge, limited_body, page_policy
from xaitune.studio.catalogue import Catalogue, NotServed
from xaitune.studio.corrections import Corrections
from xaitune.studio.explainers import Explainers, SampleProgress
from xaitune.studio.jobs import Busy, Jobs
from xaitune.studio.uploads import Uploads
from xaitune.studio.views import thumbnail
from xaitune.training.folder import CONFIG
from xaitune.training.run import Run

UPLOAD_LIMIT = 15_000_000  # bytes
QUESTION_LIMIT = 100_000  # bytes of a request's JSON
TEMPLATES = Path(__file__).parent / "templates"
STATUS: dict[type[XaituneError], int] = {NotServed: 404, TooLarge: 413, Busy: 409, InputError: 400}
Fields = dict[str, Any]


class Studio:
    """What the routes answer, and all that is kept between requests. Every change to it comes from the studio's own page."""

    def __init__(self, runs_dir: Path, upload_limit: int = UPLOAD_LIMIT) -> None:
        self.catalogue, self.corrections = Catalogue(runs_dir), Corrections(runs_dir)
        self.explainers, self.uploads, self.jobs = Explainers(), Uploads(), Jobs()
        self.upload_limit, self.token = upload_limit, secrets.token_urlsafe(24)
        self.page, self.policy = _rendered(self.token, runs_dir, upload_limit)

    def routes(self) -> list[Route]:
        """The routes and what answers them."""
        return [
            Route("/", self.get_page),
            Route("/api/runs", self.get_runs),
            Route("/api/images", self.get_images),
            Route("/thumbnail", self.get_thumbnail),
            Route("/api/uploads", self.post_upload, methods=["POST"]),
            Route("/api/explain", self.post_explain, methods=["POST"]),
            Route("/api/check", self.post_check, methods=["POST"]),
            Route("/api/lime", self.post_lime, methods=["POST"]),
            Route("/api/marks", self.get_marks),
            Route("/api/marks", self.post_mark, methods=["POST"]),
            Route("/api/jobs", self.get_jobs),
            Route("/api/jobs", self.post_job, methods=["POST"]),
            Route("/api/jobs/{number:int}", self.get_job),
            Route("/api/jobs/{number:int}/stop", self.post_stop, methods=["POST"]),
        ]

    async def get_page(self, request: Request) -> Response:
        """The page."""
        return HTMLResponse(self.page, headers={"content-security-policy": self.policy})

    async def get_runs(self, request: Request) -> Response:
        """The runs that there are."""
        runs, problems = await run_in_threadpool(self.catalogue.summaries)
        return JSONResponse({"runs": runs, "problems": problems})

    async def get_images(self, request: Request) -> Response:
        """The images of a run."""
        found = await run_in_threadpool(self.catalogue.images, request.query_params.get("run"))
        return JSONResponse({"images": found})

    async def get_thumbnail(self, request: Request) -> Response:
        """A small picture of one of a run's images."""
        asked = request.query_params
        path = self.catalogue.image_path(asked.get("run"), asked.get("file"))
        depth = self.catalogue.run(asked.get("run")).data_config.bit_depth
        content = await run_in_threadpool(thumbnail, path, depth)
        headers = {"cache-control": "private, max-age=600", "etag": f'"{hashlib.sha256(content).hexdigest()[:16]}"'}
        return Response(content, media_type="image/jpeg", headers=headers)

    async def post_upload(self, request: Request) -> Response:
        """Keep an image, the request's body, in memory."""
        name = Path(request.query_params.get("name", "image")).name or "image"
        data = await limited_body(request, self.upload_limit, name)
        return JSONResponse({"upload": await run_in_threadpool(self.uploads.add, name, data), "name": name})

    async def post_explain(self, request: Request) -> Response:
        """Grad-CAM or CAM at all blocks."""
        asked = await _fields(request)
        return JSONResponse(await run_in_threadpool(self._heatmaps, asked))

    def _heatmaps(self, asked: Fields) -> Fields:
        run = self.catalogue.run(asked.get("run"))
        name, pixels = self._pixels(run, asked)
        method, rule = asked.get("method", "gradcam"), asked.get("rule", "gradcam")
        answer = self.explainers.heatmaps(run, pixels, method, rule, asked.get("class") or None)
        return answer | {"run": asked["run"], "name": name, "size": [*pixels.shape[1::-1]]}

    async def post_check(self, request: Request) -> Response:
        """Begin the checks of the heatmaps of an image."""
        asked = await _fields(request)
        run = self.catalogue.run(asked.get("run"))
        name, pixels = await run_in_threadpool(self._pixels, run, asked)
        how = asked.get("method", "gradcam"), asked.get("rule", "gradcam"), asked.get("class") or None

        def work(report: SampleProgress) -> Fields:
            answer = self.explainers.checked_heatmaps(run, pixels, *how, report)
            return answer | {"run": asked["run"], "name": name, "size": [*pixels.shape[1::-1]]}

        return JSONResponse(self.jobs.start_thread(f"Checks of {name}", work).to_json())

    async def post_lime(self, request: Request) -> Response:
        """Begin LIME."""
        asked = await _fields(request)
        run = self.catalogue.run(asked.get("run"))
        if run.config.segments:
            raise InputError("LIME explains the class of an image. For a segmentation use gradcam.")
        name, pixels = await run_in_threadpool(self._pixels, run, asked)

        def work(report: SampleProgress) -> Fields:
            answer = self.explainers.superpixels(run, pixels, asked.get("class") or None, report)
            return answer | {"run": asked["run"], "name": name, "size": [*pixels.shape[1::-1]]}

        return JSONResponse(self.jobs.start_thread(f"LIME of {name}", work).to_json())

    def _pixels(self, run: Run, asked: Fields) -> tuple[str, np.ndarray]:
        """(name, RGB 0..255) of the image that a request names: an upload, or a file of the run `source`."""
        depth = run.data_config.bit_depth
        if asked.get("upload") is not None:
            return self.uploads.pixels(asked["upload"], depth)
        path = self.catalogue.image_path(asked.get("source", asked.get("run")), asked.get("file"))
        return asked["file"], read_image(path, depth)

    async def get_marks(self, request: Request) -> Response:
        """The marked images, and the command that uses them for a run."""
        return JSONResponse(await run_in_threadpool(self._marks, request.query_params.get("run")))

    def _marks(self, name: str | None) -> Fields:
        shown: Fields = {
            "path": str(self.corrections.path),
            "marks": self.corrections.rows(),
            "command": "",
            "warning": "",
        }
        if name:
            run = self.catalogue.run(name)
            shown |= {"command": self.corrections.command(run), "warning": self.corrections.warning(run)}
        return shown

    async def post_mark(self, request: Request) -> Response:
        """Mark an image of a run."""
        asked = await _fields(request)
        run = self.catalogue.run(asked.get("run"))
        self.catalogue.row(asked.get("run"), asked.get("file"))
        mark = (run, asked["file"], asked.get("action"), asked.get("new_class"))
        await run_in_threadpool(self.corrections.mark, *mark)
        return JSONResponse(await run_in_threadpool(self._marks, asked["run"]))

    async def get_jobs(self, request: Request) -> Response:
        """The trainings and advice that were started."""
        return JSONResponse({"jobs": self.jobs.commands()})

    async def get_job(self, request: Request) -> Response:
        """One job, with its result."""
        return JSONResponse(self.jobs.get(request.path_params["number"]).to_json(whole=True))

    async def post_stop(self, request: Request) -> Response:
        """Stop a job."""
        return JSONResponse((await run_in_threadpool(self.jobs.stop, request.path_params["number"])).to_json())

    async def post_job(self, request: Request) -> Response:
        """Start an advice or a training."""
        asked = await _fields(request)
        title, arguments = self._command(asked)
        return JSONResponse(self.jobs.start_command(title, arguments).to_json())

    def _command(self, asked: Fields) -> tuple[str, list[str]]:
        """(title, arguments) of the command that a request describes, with the settings of its run. Raises InputError."""
        require_choice("command", asked.get("command"), ("train", "advise"))
        words = [asked["command"], "--runs-dir", str(self.catalogue.runs_dir)]
        title = "Training" if asked["command"] == "train" else "Advice"
        if asked.get("run"):
            words += ["--config", str(self.catalogue.run(asked["run"]).path / CONFIG)]
            title += f" like {asked['run']}"
        elif not Path(CONFIG_FILE).is_file():
            raise InputError(f"Choose a run whose settings are used, or make {CONFIG_FILE} with 'xaitune init DATA'.")
        if asked.get("label_fixes"):
            words += ["--label-fixes", str(self.corrections.path)]
        return title, words + (_training_options(asked) if asked["command"] == "train" else [])


def _training_options(asked: Fields) -> list[str]:
    """The options of a training that a request sets; the command checks their ranges."""
    words = []
    if asked.get("optimizer"):
        require_choice("optimizer", asked["optimizer"], OPTIMIZERS)
        words += ["--optimizer", asked["optimizer"]]
    for name in ("freeze_through", "epochs"):
        value = asked.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(f"{name} must be a whole number. Received: {name}={value!r}.")
        words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def make_app(runs_dir: Path, port: int, upload_limit: int = UPLOAD_LIMIT) -> Starlette:
    """The application, for requests to 127.0.0.1:`port`; `state.studio`: the Studio, `state.ended` what it stopped at the end."""
    studio = Studio(runs_dir, upload_limit)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        made.state.ended = await run_in_threadpool(studio.jobs.stop_all)

    made = Starlette(
        routes=studio.routes(),
        middleware=[Middleware(OnlyOwnPage, port=port, token=studio.token)],
        exception_handlers={XaituneError: _as_json},
        lifespan=lifespan,
    )
    made.state.studio, made.state.ended = studio, []
    return made


async def _fields(request: Request) -> Fields:
    """The JSON object in a request's body. Raises InputError."""
    try:
        found = json.loads(await limited_body(request, QUESTION_LIMIT, "The request"))
    except ValueError as error:
        if isinstance(error, TooLarge):
            raise
        raise InputError("The request's body must be a JSON object.") from None
    if not isinstance(found, dict):
        raise InputError("The request's body must be a JSON object.")
    return found


async def _as_json(request: Request, error: Exception) -> Response:
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
    return JSONResponse({"error": str(error)}, status)


def _rendered(token: str, runs_dir: Path, upload_limit: int) -> tuple[str, str]:
    """The page and its Content-Security-Policy."""
    script, style = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("studio.js", "studio.css"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("studio.html").render(
        script=script,
        style=style,
        token=token,
        runs_dir=str(runs_dir),
        upload_limit=upload_limit,
        rules=tuple(RULES),
        optimizers=tuple(OPTIMIZERS),
    )
    return page, page_policy(script, style)
