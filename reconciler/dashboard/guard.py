"""Who may see the dashboard, and which requests are meant: host, session, and where a form came from."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from urllib.parse import parse_qsl

from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reconciler.config.models import Admin

COOKIE = "gitlab_reconciler"
LARGEST_FORM = 64 * 1024
OPEN_PATHS = ("/login", "/static/")
HEADERS = {
    # Nothing but what this server serves: payloads are strangers' words, and none of them becomes markup or script.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


_RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


class Guard:
    """Stands before the whole app.

    With a token, who shows it once gets a cookie; scripts may send it as `Authorization: Bearer`. Without one, only
    requests that name this machine as their host come in, so that a page elsewhere whose name leads here (DNS
    rebinding) does not. A form is acted on when it carries the secret that this process put into it.
    """

    def __init__(self, app: ASGIApp, config: Admin) -> None:
        self._app = app
        self._token = None if config.token is None else config.token.get_secret_value()
        self._hosts = {"localhost", "127.0.0.1", "[::1]", config.host}
        self.form_secret = secrets.token_urlsafe(24)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        scope.setdefault("state", {})["guard"] = self
        answer = await self._refusal(request)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_RAW_HEADERS]
            await send(message)

        await (answer or self._app)(scope, receive, send_guarded)

    def is_token(self, shown: str) -> bool:
        """Whether this is the token."""
        return self._token is not None and hmac.compare_digest(shown.encode(), self._token.encode())

    @property
    def session(self) -> str:
        """What a cookie holds: good until the token changes."""
        return hmac.new((self._token or "").encode(), b"dashboard session", hashlib.sha256).hexdigest()

    async def _refusal(self, request: Request) -> Response | None:
        declared = request.headers.get("content-length", "0" if request.method in ("GET", "HEAD") else "")
        if not declared.isdigit() or int(declared) > LARGEST_FORM:
            return PlainTextResponse("forms here are small, and say how long they are\n", 413)
        if self._token is None:
            host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
            if host not in self._hosts:
                return PlainTextResponse("this dashboard has no token: it is for this machine alone\n", 403)
        elif not request.url.path.startswith(OPEN_PATHS) and not self._knows(request):
            if request.url.path == "/stream" or request.method != "GET":
                return PlainTextResponse("who are you? /login\n", 401)
            return RedirectResponse("/login", 303)
        return None

    def _knows(self, request: HTTPConnection) -> bool:
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(shown):
            return True
        return hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), self.session.encode())

    async def meant(self, request: Request) -> bool:
        """Whether a form was sent from a page of ours."""
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        return hmac.compare_digest((await form_of(request)).get("secret", "").encode(), self.form_secret.encode())


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form, as browsers send those without files."""
    return dict(parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True))
