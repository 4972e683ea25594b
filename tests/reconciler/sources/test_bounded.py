"""What GitLab answers, or stands in its place, is bounded when it is unpacked."""

from __future__ import annotations

import gzip
import json
import tracemalloc

import pytest

from reconciler.config.models import GitLab
from reconciler.sources import bounded
from reconciler.sources.bounded import LARGEST_ANSWER, TooLarge, bounded_session
from reconciler.sources.client import Client
from reconciler.sources.errors import Unavailable
from tests.support.scripted import Scripted

BOMB = gzip.compress(b"[" + b" " * (LARGEST_ANSWER + 1) + b"]")


@pytest.mark.parametrize("status", [200, 500, 404, 302])
def test_a_small_answer_that_becomes_large_is_given_up(status: int) -> None:
    asked: list[str] = []

    def answer(path: str) -> tuple[int, bytes]:
        asked.append(path)
        return status, BOMB

    headers = {"Content-Encoding": "gzip", "Location": "/elsewhere"}
    with Scripted(answer, **headers) as server:
        client = Client(GitLab(url=server.url), tries=3)
        tracemalloc.start()
        with pytest.raises(Unavailable, match="larger than 134,217,728 bytes"):
            client.get("/version")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(asked) == 1  # it would be the same again
    assert peak < 2 * LARGEST_ANSWER
    assert len(BOMB) < 1 << 20


def test_others_are_read_as_ever() -> None:
    big = [{"id": n, "pad": "x" * 1000} for n in range(5000)]
    with Scripted(lambda _: (200, gzip.compress(json.dumps(big).encode())), **{"Content-Encoding": "gzip"}) as server:
        assert Client(GitLab(url=server.url)).get("/x") == big
    with Scripted(lambda _: (200, {"version": "18"})) as server:
        assert Client(GitLab(url=server.url)).get("/version") == {"version": "18"}


def test_the_bound_is_on_what_comes_out() -> None:
    with Scripted(lambda _: (200, b"x" * 1000)) as server:
        assert bounded_session(1000).get(server.url).content == b"x" * 1000
        with pytest.raises(TooLarge):
            bounded_session(999).get(server.url)
    assert bounded.LARGEST_ANSWER == 128 << 20
