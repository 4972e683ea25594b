"""A port that nobody else is given."""

from __future__ import annotations

import socket

from reconciler.simulator.ports import free_port


def test_nobody_who_asks_for_any_port_is_given_it() -> None:
    found = {free_port() for _ in range(20)}
    assert len(found) > 1
    given = set()
    for _ in range(200):
        with socket.create_server(("127.0.0.1", 0)) as one:
            given.add(one.getsockname()[1])
    assert max(found) < min(given)


def test_one_that_is_in_use_is_not_found() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as one:
        assert free_port() != one.getsockname()[1]
