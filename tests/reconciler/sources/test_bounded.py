"""What GitLab answers, or stands in its place, is bounded: in size when it is unpacked, in time, and in where we are
sent.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import ssl
import threading
import tracemalloc
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import trustme

from reconciler.config.models import GitLab
from reconciler.sources import answers, bounded
from reconciler.sources.bounded import LARGEST_ANSWER, TooLarge, TooSlow, bounded_session
from reconciler.sources.client import Client
from reconciler.sources.errors import Unavailable
from tests.support.scripted import Scripted
from tests.support.service import until


@cache
def bomb() -> bytes:
    """A small answer that is larger than what is read, once it is decompressed."""
    return gzip.compress(b"[" + b" " * (LARGEST_ANSWER + 1) + b"]")


@pytest.mark.parametrize("status", [200, 500, 404, 302])
def test_a_small_answer_that_becomes_large_is_given_up(status: int) -> None:
    asked: list[str] = []
    small = bomb()

    def answer(path: str) -> tuple[int, bytes]:
        asked.append(path)
        return status, small

    headers = {"Content-Encoding": "gzip", "Location": "/elsewhere"}
    with Scripted(answer, headers) as server:
        client = Client(GitLab(url=server.url), tries=3)
        tracemalloc.start()
        with pytest.raises(Unavailable, match="larger than 134,217,728 bytes"):
            client.get("/version", answers.Version)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(asked) == 1  # it would be the same again
    assert peak < 2 * LARGEST_ANSWER
    assert len(bomb()) < 1 << 20


def test_others_are_read_as_ever() -> None:
    big = [{"id": n, "pad": "x" * 1000} for n in range(1, 5001)]
    with Scripted(lambda _: (200, gzip.compress(json.dumps(big).encode())), {"Content-Encoding": "gzip"}) as server:
        assert [one.raw for one in Client(GitLab(url=server.url)).all("/x", answers.Thing)] == big
    with Scripted(lambda _: (200, {"version": "18"})) as server:
        assert Client(GitLab(url=server.url)).get("/version", answers.Version).raw == {"version": "18"}


def test_the_bound_is_on_what_comes_out() -> None:
    with Scripted(lambda _: (200, b"x" * 1000)) as server:
        assert bounded_session(1000, within_s=30).get(server.url).content == b"x" * 1000
        with pytest.raises(TooLarge):
            bounded_session(999, within_s=30).get(server.url)
    assert bounded.LARGEST_ANSWER == 128 << 20


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
TRICKLES = {
    "its head": (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
    "a body whose length is told": (HEAD + b"Content-Length: 100000\r\n\r\n[", b" "),
    "a body in chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n[\r\n"),
    "a body that only its end ends": (HEAD + b"Connection: close\r\n\r\n[]", b" "),
}


@contextlib.contextmanager
def trickling(start: bytes, more: bytes, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that sends a little now and then, as long as anybody listens."""
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = listener.accept()
                with contextlib.suppress(OSError), tls.wrap_socket(one, server_side=True) if tls else one as one:
                    one.recv(65536)
                    one.sendall(start)
                    while not over.wait(0.02):
                        one.sendall(more)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=[listener], daemon=True)
        thread.start()
        yield f"http{'s' if tls else ''}://127.0.0.1:{listener.getsockname()[1]}"
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.mark.parametrize("what", TRICKLES)
def test_an_answer_that_trickles_is_given_up(what: str) -> None:
    with trickling(*TRICKLES[what]) as url:
        client = Client(GitLab(url=url, timeout="1s"), tries=1)
        with pytest.raises(Unavailable, match=r"was not complete after 1 s: see gitlab\.timeout"):
            client.get("/version", answers.Version)


def test_so_is_one_through_tls_and_an_unknown_ca_is_refused(tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with trickling(*TRICKLES["a body in chunks"], context) as url:
        client = Client(GitLab(url=url, timeout="1s", ca_file=tmp_path / "ca.pem"), tries=1)
        with pytest.raises(Unavailable, match="was not complete"):
            client.get("/version", answers.Version)
        with pytest.raises(Unavailable, match=r"certificate is signed by an unknown CA.*set gitlab\.ca_file"):
            Client(GitLab(url=url), tries=1).get("/version", answers.Version)


@pytest.mark.parametrize("more", [b"x", b"\r\nX: y"])
def test_so_is_a_proxy_s_own_answer(more: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with trickling(b"HTTP/1.1 200 OK\r\nX-Long: ", more) as url:
        monkeypatch.setenv("HTTPS_PROXY", url)
        client = Client(GitLab(url="https://gitlab.example", timeout="1s"), tries=1)
        with pytest.raises(Unavailable, match=r"was not complete after 1 s: see gitlab\.timeout"):
            client.get("/version", answers.Version)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_so_is_one_on_a_connection_that_was_used_before() -> None:
    wait, waited = threading.Event(), threading.Event()

    def answer(path: str) -> tuple[int, object]:
        if path == "/slow":
            wait.wait(10)
            waited.set()
        return 200, {"version": "18"}

    before = open_files()
    with Scripted(answer) as server, bounded_session(within_s=1) as session:
        for _ in range(3):
            assert session.get(f"{server.url}/fast").status_code == 200
        with pytest.raises(TooSlow):
            session.get(f"{server.url}/slow", timeout=60)
        assert not waited.is_set()
        wait.set()
        assert session.get(f"{server.url}/fast").status_code == 200
    until(lambda: open_files() <= before + 1)  # nothing is left open, once the server's threads have ended


def test_who_is_not_there_is_named_plainly() -> None:
    with pytest.raises(Unavailable) as raised:
        Client(GitLab(url="http://127.0.0.1:9"), tries=1).get("/version", answers.Version)
    words = "no answer: Connection refused"
    assert words in str(raised.value)


@pytest.mark.parametrize("verb", ["get", "post", "put"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_token_goes_nowhere_else(verb: str, status: int) -> None:
    asked: list[str] = []

    def elsewhere(path: str) -> tuple[int, object]:
        asked.append(path)
        return 200, {"version": "18"}

    with Scripted(elsewhere) as other:
        new = f"{other.url}/gitlab/api/v4/version?private_token=abc"
        with Scripted(lambda _: (status, b""), Location=new) as server:
            client = Client(GitLab(url=server.url, token="glpat-secret"), tries=3)
            with pytest.raises(Unavailable) as raised:
                if verb == "get":
                    client.get("/version", answers.Version)
                else:
                    getattr(client, verb)("/projects/1/hooks", {"url": "x"})
    assert f"set gitlab.url to {other.url}/gitlab" in str(raised.value)
    assert "abc" not in str(raised.value)
    assert asked == []
    assert client.requests == 1  # it would be the same again


@pytest.mark.parametrize(
    ("place", "is_ours"),
    [
        ("/elsewhere", True),
        ("{url}/elsewhere", True),
        ("https://127.0.0.1:{port}/x", False),
        ("http://localhost:{port}/x", False),
        ("http://127.0.0.1/x", False),
        ("http://127.0.0.1:{port}@gitlab.example/x", False),
        ("//gitlab.example/x", False),
        ("http://127.0.0.1:99999/x", False),
    ],
)
def test_what_another_address_is(place: str, is_ours: bool) -> None:
    asked: list[str] = []

    def answer(path: str) -> tuple[int, object]:
        asked.append(path)
        return (302, b"") if path != "/elsewhere" else (200, {"version": "18"})

    headers: dict[str, str] = {}
    with Scripted(answer, headers) as server:
        headers["Location"] = place.format(url=server.url, port=server.url.rpartition(":")[2])
        client = Client(GitLab(url=server.url, token="glpat-secret"), tries=1)
        if is_ours:
            assert client.get("/version", answers.Version).shown.version == "18"
        else:
            with pytest.raises(Unavailable, match=r"redirected to another address.*check gitlab\.url"):
                client.get("/version", answers.Version)
    assert len(asked) == 1 + is_ours
