"""`check` of destinations, of secrets, and `destinations test --send`, as a person runs them."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from standardwebhooks import Webhook

from reconciler.simulator.consumer import Consumer
from reconciler.simulator.ports import free_port
from reconciler.simulator.server import Simulator
from tests.conftest import MakeService, at_gitlab, to_consumer

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@contextmanager
def patient(most: int) -> Iterator[int]:
    """A server's port. It lets all connections wait until there are so many, and closes them then."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def take() -> None:
            try:
                while len(held) < most:
                    held.append(server.accept()[0])
            except OSError:
                pass
            for one in held:
                one.close()

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def findings(out: str, name: str) -> list[dict[str, Any]]:
    return [one for one in json.loads(out) if one["what"].split(":")[0] == name]


def test_check_connects_to_each_and_asks_all_at_once(make_service: MakeService, consumer: Consumer) -> None:
    """The patient one lets nobody go before both are there: who asks one after the other waits in vain."""
    with patient(2) as port:
        away = free_port()
        destinations = [
            to_consumer(consumer, name="there"),
            {"name": "closed", "url": f"http://127.0.0.1:{away}/", "allow_private": True},
            {"name": "first", "url": f"https://127.0.0.1:{port}/", "allow_private": True},
            {"name": "second", "url": f"https://127.0.0.1:{port}/", "allow_private": True},
        ]
        service = make_service(destinations=destinations)
        service.write_config()
        done = service.run("check", "--json")
    assert done.returncode == 1
    [there], [closed] = findings(done.stdout, "destination there"), findings(done.stdout, "destination closed")
    assert (there["ok"], there["what"]) == (True, f"destination there: 127.0.0.1:{consumer.port} accepts connections")
    assert closed["advice"] == f"127.0.0.1:{away}: nothing listens there (connection refused)"
    for name in ("first", "second"):
        [found] = findings(done.stdout, f"destination {name}")
        assert "does not answer" not in found["advice"]
    assert consumer.requests == []


def test_one_that_never_answers_is_not_waited_for_long(make_service: MakeService) -> None:
    with patient(99) as port:
        keys = {"url": f"https://127.0.0.1:{port}/x?key=hidden", "allow_private": True, "timeout": "200ms"}
        service = make_service(destinations=[{"name": "d", **keys}])
        service.write_config()
        done = service.run("check")
    assert done.returncode == 1
    assert f"no answer within 0.2 s: https://127.0.0.1:{port}/x" in done.stdout
    assert "hidden" not in done.stdout


def test_brokers_clients_do_not_log_into_it(make_service: MakeService) -> None:
    port = free_port()
    kinds: list[tuple[str, str, Any]] = [
        ("nats", "servers", [f"127.0.0.1:{port}"]),
        ("kafka", "servers", [f"127.0.0.1:{port}"]),
    ]
    kinds += [("redis", "url", f"redis://127.0.0.1:{port}"), ("mqtt", "url", f"mqtt://127.0.0.1:{port}")]
    kinds += [("rabbitmq", "url", f"amqp://127.0.0.1:{port}")]
    kinds += [("sql", "url", f"mysql://user@127.0.0.1:{port}/database")]
    service = make_service(destinations=[{"name": kind, "kind": kind, key: value} for kind, key, value in kinds])
    service.write_config()
    done = service.run("check")
    assert (done.stdout.count("nothing listens there"), done.stderr) == (len(kinds), "")
    for kind, _, _ in kinds:
        done = service.run("destinations", "test", kind, "--send")
        assert (done.returncode, done.stderr, "not accepted" in done.stdout) == (1, "", True)


@pytest.mark.parametrize(
    ("hook", "advice"),
    [
        ({"token": "secret"}, "its token can be guessed"),
        ({"token": "hunter2"}, "`openssl rand -hex 20` makes one"),
        ({"token": "a" * 40}, "16 or more random characters"),
        ({"token": "change-me"}, "still 'change-me'"),
        ({"signing_token": "whsec_YWJj"}, "its signing token can be guessed"),
    ],
)
def test_check_and_the_service_name_secrets_that_can_be_guessed(
    make_service: MakeService, hook: dict[str, str], advice: str
) -> None:
    service = make_service(receiver={"port": 0, "hooks": [hook]})
    service.write_config()
    done = service.run("check", "--json")
    [found] = findings(done.stdout, "hook default")
    assert (done.returncode, found["ok"], advice in found["advice"]) == (1, False, True)
    assert "hunter2" not in done.stdout
    assert "YWJj" not in done.stdout


def test_a_secret_to_sign_with_can_be_guessed_too(make_service: MakeService, consumer: Consumer) -> None:
    service = make_service(destinations=[to_consumer(consumer, secret="whsec_YWJj")])
    service.write_config()
    found = findings(service.run("check", "--json").stdout, "destination consumer")
    assert [one["ok"] for one in found] == [False, True]
    assert "24 bytes" in found[0]["advice"]


def test_the_service_logs_a_weak_token(make_service: MakeService) -> None:
    service = make_service(receiver={"port": 0, "hooks": [{"token": "hunter2"}]}).start()
    assert "its token can be guessed" in service.wait_for_log("anyone could post events")["reason"]


class TestSend:
    def test_one_event_marked_as_a_test_and_signed(self, make_service: MakeService, consumer: Consumer) -> None:
        service = make_service(destinations=[to_consumer(consumer, secret=SECRET, filter={"kinds": ["push"]})])
        service.write_config()
        done = service.run("destinations", "test", "consumer", "--send")
        assert done.returncode == 0, done.stderr
        [request] = consumer.accepted
        assert request.event_id.startswith("test_")
        assert f"{request.event_id} to {consumer.url}: accepted (HTTP 200)" in done.stdout
        assert request.headers["idempotency-key"] == request.event_id
        assert request.headers["x-reconciler-test"] == "true"
        assert json.loads(request.body)["object_kind"] == "reconciler_test"
        Webhook(SECRET).verify(request.body, request.headers)
        assert not service.ledger.exists()  # it knows nothing of it

    def test_as_a_cloud_event(self, make_service: MakeService, consumer: Consumer) -> None:
        service = make_service(destinations=[to_consumer(consumer, format="cloudevents")])
        service.write_config()
        assert service.run("destinations", "test", "consumer", "--send").returncode == 0
        [request] = consumer.accepted
        made = json.loads(request.body)
        assert (made["type"], made["id"]) == ("com.gitlab.reconciler_test.test", request.event_id)

    def test_one_that_is_not_taken(self, make_service: MakeService, consumer: Consumer) -> None:
        consumer.answer = lambda _h, _b: (401, {}, b"who are you?")
        service = make_service(destinations=[to_consumer(consumer, headers={"Authorization": "Bearer hidden"})])
        service.write_config()
        done = service.run("destinations", "test", "consumer", "--send", "--bodies")
        assert (done.returncode, "not accepted (HTTP 401 Unauthorized: who are you?)" in done.stdout) == (1, True)
        assert ("hidden" in done.stdout, "Authorization: …" in done.stdout) == (False, True)
        found = json.loads(service.run("destinations", "test", "consumer", "--send", "--json").stdout)
        assert (found["accepted"], found["status"], found["response"]) == (False, 401, "who are you?")

    def test_a_transform_that_needs_what_only_gitlab_s_bodies_have(
        self, make_service: MakeService, consumer: Consumer
    ) -> None:
        templates = {"a": '{"text": {{ event.title | tojson }}}', "b": "{{ body.object_attributes.title }}"}
        made = [to_consumer(consumer, name=name, transform={"template": text}) for name, text in templates.items()]
        service = make_service(destinations=made)
        service.write_config()
        assert service.run("destinations", "test", "a", "--send").returncode == 0
        assert "nothing happened in GitLab" in json.loads(consumer.accepted[0].body)["text"]
        done = service.run("destinations", "test", "b", "--send")
        assert (done.returncode, "`destinations test b --bodies`" in done.stderr) == (1, True)

    def test_what_does_not_go_together(self, make_service: MakeService, consumer: Consumer) -> None:
        service = make_service(destinations=[to_consumer(consumer)])
        service.write_config()
        assert service.run("destinations", "test", "consumer", "--send", "--from", "2026-01-01").returncode == 2
        assert service.run("destinations", "test", "nobody", "--send").returncode == 2
        assert consumer.requests == []


def test_a_gitlab_that_is_there_and_a_destination_that_is_not(make_service: MakeService, gitlab: Simulator) -> None:
    """The destination's trouble is told among the rest, and the rest is looked at all the same."""
    destination = {"name": "d", "url": f"http://127.0.0.1:{free_port()}/", "allow_private": True}
    service = make_service(destinations=[destination], **at_gitlab(gitlab))
    service.write_config()
    done = service.run("check")
    assert (done.returncode, done.stdout.count("✗")) == (1, 1)
