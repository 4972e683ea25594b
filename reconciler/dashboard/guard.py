"""Who may see the dashboard, and which requests are meant: host, session, and where a form came from."""

from __future__ import annotations

import hmac
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from urllib.parse import parse_qsl

import structlog
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reconciler.config.models import Admin

COOKIE = "gitlab_reconciler"
LARGEST_FORM = 64 * 1024
GUESSES = 10
GUESS_EVERY_S = 6.0
MOST_GUESSERS = 4096
"""Of how many addresses it is remembered that they guessed. Who has that many to guess from has as many guesses."""
TOO_MANY = "too many wrong tokens were shown: try again later\n"
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

log = structlog.get_logger(__name__)

_RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


class Guesses:
    """How many wrong tokens may be shown from one address: a handful at once, and one more every few seconds.

    Where there were too many, none is looked at that comes from there, be it right or wrong: else guessing would go
    on at full speed. Others may log in, and who is logged in stays so. `clock` is in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._guessers: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """How many tokens each had left, and when; who guessed last comes last."""

    def wait_s(self, guesser: str) -> float:
        """Seconds until a token is looked at again; 0 where one may be shown now."""
        return max(0.0, (1 - self._left(guesser)) * GUESS_EVERY_S)

    def wrong(self, guesser: str) -> None:
        """A wrong token was shown."""
        self._guessers[guesser] = self._left(guesser) - 1, self._clock()
        self._guessers.move_to_end(guesser)
        if len(self._guessers) > MOST_GUESSERS:
            self._guessers.popitem(last=False)

    def _left(self, guesser: str) -> float:
        left, at = self._guessers.get(guesser, (float(GUESSES), 0.0))
        return min(float(GUESSES), left + (self._clock() - at) / GUESS_EVERY_S)


class AdminGuard:
    """Stands before the whole app.

    With a token, who shows it once gets a cookie that is good until the service stops; scripts may send it as
    `Authorization: Bearer`. Without one, only
    requests that name this machine as their host come in, so that a page elsewhere whose name leads here (DNS
    rebinding) does not. A form is acted on when it carries the secret that this process put into it.
    """

    def __init__(self, app: ASGIApp, config: Admin) -> None:
        self._app = app
        self._token = None if config.token is None else config.token.get_secret_value()
        self._hosts = {"localhost", "127.0.0.1", "[::1]", config.host}
        self._guesses = Guesses()
        self.form_secret = secrets.token_urlsafe(24)
        self.session = secrets.token_urlsafe(32)
        """What a cookie holds. It is not made of the token: else cookies would be another way to guess that."""

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

    def looks_away_s(self, request: HTTPConnection) -> int:
        """Seconds until a token is looked at again that comes from there, after too many wrong ones; 0 where one may
        be shown now.
        """
        return math.ceil(self._guesses.wait_s(_network(request)))

    def is_token(self, shown: str, request: HTTPConnection) -> bool:
        """Whether this is the token. Wrong ones are counted, and logged."""
        if self._token is None or self.looks_away_s(request):
            return False
        if hmac.compare_digest(shown.encode("utf-8", "replace"), self._token.encode()):
            return True
        self._guesses.wrong(_network(request))
        client = request.client and request.client.host
        log.warning("wrong dashboard token", client=client)
        if wait := self.looks_away_s(request):
            log.error("too many wrong dashboard tokens: tokens are ignored for a while", client=client, seconds=wait)
        return False

    async def _refusal(self, request: Request) -> Response | None:
        declared = request.headers.get("content-length", "0" if request.method in ("GET", "HEAD") else "")
        if not declared.isdigit() or int(declared) > LARGEST_FORM:
            return PlainTextResponse("forms here are small, and say how long they are\n", 413)
        if self._token is None:
            host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
            if host not in self._hosts:
                return PlainTextResponse("this dashboard has no token: it is for this machine alone\n", 403)
        elif not request.url.path.startswith(OPEN_PATHS) and not self._knows(request):
            if wait := self.looks_away_s(request):
                return PlainTextResponse(TOO_MANY, 429, {"Retry-After": str(wait)})
            if request.url.path == "/stream" or request.method != "GET":
                return PlainTextResponse("who are you? /login\n", 401)
            return RedirectResponse("/login", 303)
        return None

    def _knows(self, request: HTTPConnection) -> bool:
        if hmac.compare_digest(request.cookies.get(COOKIE, "").encode("utf-8", "replace"), self.session.encode()):
            return True
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self.is_token(shown, request)

    async def meant(self, request: Request) -> bool:
        """Whether a form was sent from a page of ours."""
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        return hmac.compare_digest((await form_of(request)).get("secret", "").encode(), self.form_secret.encode())


def _network(request: HTTPConnection) -> str:
    """Where a request comes from: an address, or for IPv6 the network of which one host has all addresses."""
    host = "" if request.client is None else request.client.host
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4 or address.ipv4_mapped is not None:
        return host
    return str(ip_network((int(address) >> 64 << 64, 64)))


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form, as browsers send those without files."""
    return dict(parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True))
