"""Decides who may use the dashboard and the API: by host, session, token, and the origin of a form."""

from __future__ import annotations

import hmac
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from typing import Literal
from urllib.parse import parse_qsl

import structlog
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reconciler.api.problems import problem
from reconciler.config.models import Admin

COOKIE = "gitlab_reconciler"
LARGEST_FORM = 64 * 1024
GUESSES = 10
GUESS_EVERY_S = 6.0
MOST_GUESSERS = 4096
"""How many addresses' guesses are remembered. An attacker with more addresses than this is not limited."""
TOO_MANY = "too many wrong tokens: try again later\n"
OPEN_PATHS = ("/login", "/static/")
API = "/api/"
API_PAGE = "/api/v1/docs"
READS = ("GET", "HEAD", "OPTIONS")
HEADERS = {
    # Only resources of this server: payloads come from unknown people and must never become markup or script.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_ELSEWHERE = (
    "send `Authorization`, or `Content-Type: application/json`: a write without them could come from a page elsewhere"
)
Allowed = Literal["read", "write"]

log = structlog.get_logger(__name__)


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


_POLICY = "Content-Security-Policy"
_RAW_HEADERS = _raw(HEADERS)
# The style sheet of the page to try the API has its icons in itself.
_WITH_ICONS = _raw(HEADERS | {_POLICY: HEADERS[_POLICY].replace("img-src 'self'", "img-src 'self' data:")})


class Guesses:
    """Limits wrong tokens from one address: a few at once, and one more every few seconds.

    After too many, all tokens from that address are ignored, right or wrong, so that guessing is slow. Other
    addresses may log in, and sessions stay valid. `clock` is in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._guessers: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """How many guesses each address has left, and since when; the latest guesser is last."""

    def wait_s(self, guesser: str) -> float:
        """Seconds until a token from there is checked again; 0 if one may be tried now."""
        return max(0.0, (1 - self._left(guesser)) * GUESS_EVERY_S)

    def wrong(self, guesser: str) -> None:
        """Note a wrong token."""
        self._guessers[guesser] = self._left(guesser) - 1, self._clock()
        self._guessers.move_to_end(guesser)
        if len(self._guessers) > MOST_GUESSERS:
            self._guessers.popitem(last=False)

    def _left(self, guesser: str) -> float:
        left, at = self._guessers.get(guesser, (float(GUESSES), 0.0))
        return min(float(GUESSES), left + (self._clock() - at) / GUESS_EVERY_S)


class AdminGuard:
    """Guards the whole app.

    With a configured token, a login sets a cookie that is valid until the service stops; scripts may send the token
    as `Authorization: Bearer`, or another one that may only read. Without one, only requests with this machine as
    their host are allowed, which stops DNS rebinding. A form is accepted only with the secret that this process put
    into it.
    """

    def __init__(self, app: ASGIApp, config: Admin) -> None:
        self._app = app
        self._token = None if config.token is None else config.token.get_secret_value()
        self._read_token = None if config.read_token is None else config.read_token.get_secret_value()
        self._hosts = {"localhost", "127.0.0.1", "[::1]", config.host}
        self._guesses = Guesses()
        self.form_secret = secrets.token_urlsafe(24)
        self.session = secrets.token_urlsafe(32)
        """The cookie's value. It is not derived from the token, so that cookies can't be used to guess it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        scope.setdefault("state", {})["guard"] = self
        headers = _WITH_ICONS if request.scope["path"] == API_PAGE else _RAW_HEADERS
        answer = await self._refusal(request)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        await (answer or self._app)(scope, receive, send_guarded)

    def ignored_for_s(self, request: HTTPConnection) -> int:
        """Seconds until a token from this address is checked again, after too many wrong ones; 0 if one may be tried
        now.
        """
        return math.ceil(self._guesses.wait_s(_network(request)))

    def is_token(self, shown: str, request: HTTPConnection) -> bool:
        """Whether this is the token that may do everything. Wrong ones are counted and logged."""
        return self._scope_of(shown, request) == "write"

    def _scope_of(self, shown: str, request: HTTPConnection) -> Allowed | None:
        """What a token allows."""
        if self._token is None or self.ignored_for_s(request):
            return None
        given = shown.encode("utf-8", "replace")
        if hmac.compare_digest(given, self._token.encode()):
            return "write"
        if self._read_token is not None and hmac.compare_digest(given, self._read_token.encode()):
            return "read"
        self._guesses.wrong(_network(request))
        client = request.client and request.client.host
        log.warning("wrong dashboard token", client=client)
        if wait := self.ignored_for_s(request):
            log.error("too many wrong dashboard tokens: tokens are ignored for a while", client=client, seconds=wait)
        return None

    async def _refusal(self, request: Request) -> Response | None:
        of_api = request.scope["path"].startswith(API)
        without = "0" if request.method in READS or (of_api and "transfer-encoding" not in request.headers) else ""
        declared = request.headers.get("content-length", without)
        if not declared.isdigit() or int(declared) > LARGEST_FORM:
            what = "body" if of_api else "form"
            return _refused(request, 413, f"the {what} is too large, or has no Content-Length")
        if self._token is None:
            host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
            if host not in self._hosts:
                return _refused(request, 403, "this dashboard has no token: it can be used only from this machine")
        scope: Allowed | None = "write"
        if self._token is not None and not request.scope["path"].startswith(OPEN_PATHS):
            scope = self._scope(request)
            if scope is None:
                return self._not_known(request)
        may_not_write = None
        if scope == "read":
            may_not_write = "this token may only read"
        elif of_api and not _is_sent_on_purpose(request):
            may_not_write = _ELSEWHERE
        if may_not_write is not None and request.method not in READS:
            return _refused(request, 403, may_not_write)
        request.state.may_not_write = may_not_write  # for a GET that changes something
        return None

    def _not_known(self, request: Request) -> Response:
        if wait := self.ignored_for_s(request):
            return _refused(request, 429, TOO_MANY.strip(), {"Retry-After": str(wait)})
        if request.scope["path"].startswith(API) and "text/html" not in request.headers.get("accept", ""):
            how = "send the token as `Authorization: Bearer …`"
            return _refused(request, 401, how, {"WWW-Authenticate": "Bearer"})
        if request.scope["path"] == "/stream" or request.method != "GET":
            return PlainTextResponse("log in at /login\n", 401)
        return RedirectResponse("/login", 303)

    def _scope(self, request: HTTPConnection) -> Allowed | None:
        """What the sender of a request may do; None if it is not known."""
        if hmac.compare_digest(request.cookies.get(COOKIE, "").encode("utf-8", "replace"), self.session.encode()):
            return "write"
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        return self._scope_of(shown, request) if scheme.lower() == "bearer" else None

    async def is_own_form(self, request: Request) -> bool:
        """Whether a form was sent from a page of this dashboard."""
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        return hmac.compare_digest((await form_of(request)).get("secret", "").encode(), self.form_secret.encode())


def _refused(request: Request, status: int, why: str, headers: dict[str, str] | None = None) -> Response:
    if request.scope["path"].startswith(API):
        return problem(status, why, headers=headers)
    return PlainTextResponse(f"{why}\n", status, headers)


def _is_sent_on_purpose(request: HTTPConnection) -> bool:
    """Whether a write of the API can't be what a page elsewhere made a browser send: a browser says which page it
    comes from, and sends neither of these headers to another site without asking it first.

    What a browser was asked for by none is a link that was clicked in a mail, for example, if it is a GET.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None and not (site == "none" and request.scope["method"] in READS):
        return site in ("same-origin", "none")
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return "authorization" in request.headers or media_type == "application/json"


def _network(request: HTTPConnection) -> str:
    """The origin of a request: its IPv4 address, or its IPv6 /64 network, which usually belongs to one host."""
    host = "" if request.client is None else request.client.host
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4 or address.ipv4_mapped is not None:
        return host
    return str(ip_network((int(address) >> 64 << 64, 64)))


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form without files."""
    return dict(parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True))
