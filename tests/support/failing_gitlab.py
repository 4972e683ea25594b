"""A small GitLab that fails in every way that is known, at any place, from any moment."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

from reconciler.sources.bounded import _Deadline

API = "/api/v4"
PROJECTS = {42: "group/project", 43: "group/other", 60: "team/member"}
GROUPS = {7: "team"}
SIGN_IN = "/users/sign_in"

Answer = Callable[["_Handler"], None]
_Timer = threading.Timer


def status(code: int, body: Any, **headers: str) -> Answer:
    """Answer with a status and JSON."""
    return lambda handler: handler.answer(code, json.dumps(body).encode(), "application/json", headers)


def _login_page(handler: _Handler) -> None:
    handler.answer(200, b"<!doctype html><title>Sign in</title>", "text/html", {})


def _redirect(handler: _Handler) -> None:
    handler.answer(302, b"", "text/html", {"Location": SIGN_IN})


def _hang_up(handler: _Handler) -> None:
    handler.close_connection = True


def _wait(handler: _Handler) -> None:
    handler.server.gitlab.time_passes(handler.client_address)  # type: ignore[attr-defined]  # set below
    handler.server.gitlab.ended.wait(30)  # type: ignore[attr-defined]  # set below
    handler.close_connection = True


WAYS: dict[str, Answer] = {
    "token refused": status(401, {"message": "401 Unauthorized"}),
    "no scope": status(403, {"error": "insufficient_scope", "scope": "api read_api"}),
    "forbidden": status(403, {"message": "403 Forbidden"}),
    "not found": status(404, {"message": "404 Not Found"}),
    "login page": _login_page,
    "redirect to a login page": _redirect,
    "server error": status(500, {"message": "500 Internal Server Error"}),
    "bad gateway": lambda handler: handler.answer(502, b"<html>Bad Gateway</html>", "text/html", {}),
    "too many requests": status(429, {"message": "Too Many Requests"}, **{"Retry-After": "0.05"}),
    "hangs up": _hang_up,
    "never answers": _wait,
    "an empty list": status(200, []),
    "a string": status(200, "hello"),
    "an object without anything": status(200, {}),
}
"""How an answer can be wrong. Where there is none at all (no such host, no TLS), the URL is to blame."""


class FailingGitLab:
    """`with FailingGitLab() as gitlab:` answers at `gitlab.url`; `fail` makes the paths that begin so go wrong."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.requests: Counter[str] = Counter()
        self._failing: dict[str, Answer] = {}
        self._deadlines: list[_Deadline] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.gitlab = self  # type: ignore[attr-defined]  # its handlers find it there
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def fail(self, way: str, *beginnings: str) -> None:
        """From now on, requests for paths that begin like one of these go wrong."""
        self._failing = {API + beginning: WAYS[way] for beginning in beginnings}

    def recover(self) -> None:
        """All is well again."""
        self._failing = {}

    def timer(self, after_s: float, expire: Callable[[], None]) -> threading.Timer:
        """Stands in for `threading.Timer`. A request that is never answered exceeds its time as soon as it is here.

        So the time can be long: on a busy machine, who answers takes as long as who does not.
        """
        deadline = getattr(expire, "__self__", None)
        if isinstance(deadline, _Deadline):
            self._deadlines.append(deadline)
        return _Timer(after_s, expire)

    def time_passes(self, client: tuple[str, int]) -> None:
        """The request of this client has taken too long."""
        for deadline in list(self._deadlines):
            if _client(deadline) == client:
                deadline.expire()

    def respond(self, handler: _Handler) -> None:
        """Answer one request."""
        path = unquote(urlsplit(handler.path).path)
        self.requests[path] += 1
        if path == SIGN_IN:
            _login_page(handler)
            return
        for beginning, answer in self._failing.items():
            if path.startswith(beginning):
                answer(handler)
                return
        found = _normal(path.removeprefix(API))
        if found is None:
            WAYS["not found"](handler)
        else:
            status(200, found)(handler)

    def __enter__(self) -> FailingGitLab:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    disable_nagle_algorithm = True  # head and body leave apart: the second would wait for the first's ACK
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.gitlab.respond(self)  # type: ignore[attr-defined]  # set below

    def answer(self, code: int, body: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """The tests say what matters."""


def _client(deadline: _Deadline) -> tuple[str, int] | None:
    """The address that the deadline's request comes from; None if it has ended."""
    with deadline._lock:
        return None if deadline._socket is None else deadline._socket.getsockname()


def _normal(path: str) -> Any:
    """What a GitLab without events shows."""
    if path == "/version":
        return {"version": "18.0.0"}
    for ident, full_path in PROJECTS.items():
        for name in (f"/projects/{ident}", f"/projects/{full_path}"):
            if path == name:
                return {"id": ident, "path_with_namespace": full_path, "name": full_path}
            if path.startswith(f"{name}/"):
                return []
    for ident, full_path in GROUPS.items():
        for name in (f"/groups/{ident}", f"/groups/{full_path}"):
            if path == name:
                return {"id": ident, "full_path": full_path}
            if path == f"{name}/projects":
                below = [one for one in PROJECTS.items() if one[1].startswith(f"{full_path}/")]
                return [{"id": one, "path_with_namespace": there} for one, there in below]
            if path.startswith(f"{name}/"):
                return []
    return [] if path in ("/projects", "/events") else None
