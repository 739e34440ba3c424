"""Who may ask the studio what: only pages that it served itself, under its own address, and bodies of a limited size."""

import base64
import hashlib
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xaitune.errors import InputError

TOKEN_HEADER = "x-studio-token"
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class TooLarge(InputError):
    """A request whose body is larger than allowed."""


class OnlyOwnPage:
    """Middleware: refuses other host names (400) and changes that the page's own script did not ask for (403).

    A site that has its name point to 127.0.0.1 (DNS rebinding) sends its own name as Host. A form or script on another site can
    send a request here, but knows no `token` and has another Origin.
    """

    def __init__(self, app: ASGIApp, port: int, token: str) -> None:
        self.app, self.token = app, token
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refused = self._refusal(scope)
        answer = JSONResponse({"error": refused[1]}, refused[0]) if refused else self.app
        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """(status, message) for a request that is refused."""
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if host not in self.hosts:
            return 400, f"The studio answers only as {' or '.join(sorted(self.hosts))}."
        if scope["method"] in ("GET", "HEAD"):
            return None
        token = headers.get(TOKEN_HEADER, "")
        own = headers.get("origin") in (None, f"http://{host}")
        if not own or not secrets.compare_digest(token.encode(), self.token.encode()):
            return 403, "This request does not come from the studio's own page. Load the page again."
        return None


def page_policy(script: str, style: str) -> str:
    """The Content-Security-Policy of a page with this inline script and style: nothing else runs, nothing else is asked."""

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {source(script)}; style-src {source(style)}; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


async def limited_body(request: Request, limit: int, what: str) -> bytes:
    """A request's body. Raises TooLarge as soon as it is known to exceed `limit` bytes, before the rest is read."""
    message = f"{what} is larger than {limit / 1e6:g} MB, which is the limit. Scale it down or cut it into parts."
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(message)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise TooLarge(message)
        parts.append(part)
    return b"".join(parts)
