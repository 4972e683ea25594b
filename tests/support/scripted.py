"""A small HTTP server whose answers a test writes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

Answering = Callable[[str], tuple[int, Any]]


class Scripted:
    """`with Scripted(answer) as server:` answers each path at `server.url` with what `answer` says of it.

    Bytes go out as they are, anything else as JSON. `more` are headers that may change while it serves.
    """

    def __init__(self, answer: Answering, more: Mapping[str, str] = {}, **headers: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            disable_nagle_algorithm = True  # head and body leave apart: the second would wait for an ACK
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                self.rfile.read(size)
                status, body = answer(self.path)
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                sent = {"Content-Type": "application/json", "Content-Length": str(len(raw))}
                for name, value in (sent | headers | dict(more)).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            do_POST = do_PUT = do_GET  # noqa: N815 - named so by the library

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> Scripted:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
