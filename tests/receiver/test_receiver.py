"""The front door: who may come in, what is refused and how, and that 200 means on disk."""

from __future__ import annotations

import gzip
import json
import resource
import sqlite3
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook

from receiver.endpoint import named
from reconciler.events.webhooks import KIND_OF, WEBHOOKS
from reconciler.ledger.intake.file import intake_path
from tests.conftest import PAYLOADS
from tests.support.effort import tries
from tests.support.service import TOKEN, Service, until

SIGNING = "whsec_" + "c2lnbmluZy1rZXktb2YtYS10ZXN0LTEyMzQ1Njc4"
ONE_HOOK: dict[str, Any] = {
    "receiver": {"port": 0, "hooks": [{"name": "default", "token": TOKEN}]},
    "ledger": {"path": "ledger.db"},
}
PUSH = (PAYLOADS / "go-playground+webhooks" / "push-event.json").read_bytes()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests that leave it as they found it."""
    config: dict[str, Any] = {
        "receiver": {
            "port": 0,
            "max_body": "64KiB",
            "hooks": [
                {"name": "default", "token": TOKEN},
                {"name": "signed", "signing_token": SIGNING},
                {"name": "moving", "token": TOKEN, "signing_token": SIGNING},
            ],
        },
        "ledger": {"path": "ledger.db"},
    }
    running = Service(tmp_path_factory.mktemp("receiver"), config).start()
    yield running
    running.kill()


def sightings(service: Service, where: str = "1") -> list[tuple[Any, ...]]:
    with sqlite3.connect(f"file:{service.ledger}?mode=ro", uri=True) as db:
        sql = f"SELECT source, source_id, headers, payload FROM sightings WHERE {where}"
        return db.execute(sql).fetchall()


def signed(body: bytes, *, key: str = SIGNING, at: datetime | None = None) -> dict[str, str]:
    ident, at = str(uuid.uuid4()), at or datetime.now(UTC)
    return {
        "webhook-id": ident,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(key).sign(ident, at, body.decode()),
    }


def test_200_with_no_body_when_it_is_on_disk(service: Service) -> None:
    key = str(uuid.uuid4())
    answer = service.post(PUSH, Idempotency_Key=key)
    assert (answer.status_code, answer.content) == (200, b"")
    [(source, _, _, payload)] = sightings(service, f"source_id = '{key}'")
    assert (source, payload) == ("webhook:default", PUSH.decode())


@pytest.mark.parametrize("path", ["/webhooks/gitlab", "/webhooks/gitlab/", "/webhooks/gitlab/default"])
def test_no_path_redirects(service: Service, path: str) -> None:
    assert service.post(PUSH, path=path, Idempotency_Key=str(uuid.uuid4())).status_code == 200
    for elsewhere in ("/healthz/", "/readyz/", "/", "/webhooks"):
        assert httpx.get(service.url + elsewhere).status_code == 404


def test_an_unauthenticated_client_is_told_of_a_few_hooks_only() -> None:
    assert named(["a", "b"]) == "a, b"
    assert named(str(n) for n in range(2000)) == "0, 1, 2, 3, 4, …"


def test_the_path_tells_which_hook(service: Service) -> None:
    key = str(uuid.uuid4())
    assert service.post(PUSH, path="/webhooks/gitlab/moving", Idempotency_Key=key).status_code == 200
    assert sightings(service, f"source_id = '{key}'")[0][0] == "webhook:moving"
    unknown = service.post(PUSH, path="/webhooks/gitlab/nobody")
    assert unknown.status_code == 404
    assert "nobody" in unknown.text


def test_a_system_hook_is_a_source_of_its_own(service: Service) -> None:
    body = (PAYLOADS / "go-playground+webhooks" / "system-push-event.json").read_bytes()
    key = str(uuid.uuid4())
    assert service.post(body, Idempotency_Key=key, X_Gitlab_Event="System Hook").status_code == 200
    assert sightings(service, f"source_id = '{key}'")[0][0] == "system_hook:default"


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", "t\u00f6ken"])
def test_a_wrong_token_is_401(service: Service, token: str | None) -> None:
    headers: dict[Any, Any] = {"Content-Type": "application/json"}
    if token is not None:
        headers[b"X-Gitlab-Token"] = token.encode()
    answer = httpx.post(service.url + "/webhooks/gitlab", content=PUSH, headers=headers)
    assert answer.status_code == 401
    assert TOKEN not in answer.text


class TestSignature:
    def post(self, service: Service, path: str, body: bytes, headers: dict[str, str]) -> int:
        sent = {"Content-Type": "application/json", **headers}
        return httpx.post(service.url + path, content=body, headers=sent).status_code

    def test_a_good_one_comes_in(self, service: Service) -> None:
        assert self.post(service, "/webhooks/gitlab/signed", PUSH, signed(PUSH)) == 200
        assert self.post(service, "/webhooks/gitlab/moving", PUSH, signed(PUSH)) == 200

    def test_several_signatures_one_of_them_good(self, service: Service) -> None:
        headers = signed(PUSH)
        headers["webhook-signature"] = "v1,bm90LWl0 v2,eA== " + headers["webhook-signature"]
        assert self.post(service, "/webhooks/gitlab/signed", PUSH, headers) == 200

    @pytest.mark.parametrize("path", ["/webhooks/gitlab/signed", "/webhooks/gitlab/moving"])
    def test_a_bad_one_does_not_even_with_the_token(self, service: Service, path: str) -> None:
        other_key = "whsec_" + "b3RoZXIta2V5LW9mLWEtdGVzdC0xMjM0NTY3ODk="
        old = datetime.now(UTC) - timedelta(minutes=6)
        for headers in (
            signed(PUSH, key=other_key),
            signed(b"{}"),
            signed(PUSH, at=old),
            signed(PUSH, at=datetime.now(UTC) + timedelta(minutes=6)),
            {"webhook-id": "x", "webhook-timestamp": "now", "webhook-signature": "v1,%%%"},
            {"webhook-signature": "nonsense"},
        ):
            assert self.post(service, path, PUSH, {"X-Gitlab-Token": TOKEN, **headers}) == 401

    def test_an_unsigned_one_only_where_a_token_is_configured(self, service: Service) -> None:
        assert self.post(service, "/webhooks/gitlab/moving", PUSH, {"X-Gitlab-Token": TOKEN}) == 200
        assert self.post(service, "/webhooks/gitlab/signed", PUSH, {"X-Gitlab-Token": TOKEN}) == 401


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"[1]", b'"x"', b"1", b"null", b'{"a":NaN}', b"\xff{}", b"\xef\xbb\xbf{}", b"{}{}"]
)
def test_what_is_no_json_object_is_400(service: Service, body: bytes) -> None:
    assert service.post(body).status_code == 400


def test_depth_is_refused_not_fallen_over(service: Service) -> None:
    for levels in (100, 253, 255, 900, 999, 1000, 1010, 1022):
        assert service.post(b'{"a":' + b"[" * levels + b"]" * levels + b"}").status_code == 200, levels
    for levels in (1024, 1025, 20_000):
        assert service.post(b'{"a":' + b"[" * levels + b"]" * levels + b"}").status_code == 400, levels


def test_a_body_over_the_limit_is_413(service: Service) -> None:
    large = json.dumps({"x": "y" * 70_000}).encode()
    answer = service.post(large)
    assert (answer.status_code, "raise receiver.max_body" in answer.text) == (413, True)
    headers = {"X-Gitlab-Token": TOKEN, "Content-Type": "application/json"}

    def pieces() -> Iterator[bytes]:  # no Content-Length: it is counted while it comes
        yield from (large[n : n + 8192] for n in range(0, len(large), 8192))

    assert httpx.post(service.url + "/webhooks/gitlab", content=pieces(), headers=headers).status_code == 413
    small = json.dumps({"x": "y" * 60_000}).encode()
    chunks = (small[n : n + 1000] for n in range(0, len(small), 1000))
    assert httpx.post(service.url + "/webhooks/gitlab", content=chunks, headers=headers).status_code == 200


def test_method_and_content_type(service: Service) -> None:
    for method in ("GET", "PUT", "DELETE", "HEAD", "OPTIONS"):
        answer = httpx.request(method, service.url + "/webhooks/gitlab")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        assert service.post(PUSH, Content_Type=kind).status_code == 415
    assert service.post(PUSH, Content_Type="application/json; charset=utf-8").status_code == 200


@pytest.mark.parametrize("path", ["/", "/webhooks", "/webhook/gitlab", "/webhooks/gitlabs", "/healthz/x"])
def test_a_wrong_path_is_told_where_webhooks_are_posted(service: Service, path: str) -> None:
    answer = service.post(PUSH, path=path)
    assert answer.status_code == 404
    assert "post webhooks to /webhooks/gitlab or /webhooks/gitlab/signed or" in answer.text
    line = service.wait_for_log("webhook rejected", path=path)
    assert line["reason"] == answer.text.strip()
    assert httpx.get(service.url + path).status_code == 404
    unknown = service.post(PUSH, path="/webhooks/gitlab/other")
    assert (unknown.status_code, "one of default, signed, moving" in unknown.text) == (404, True)


@pytest.mark.parametrize("how", ["gzip", "br", "GZIP"])
def test_a_packed_body_is_415_and_says_so(service: Service, how: str) -> None:
    answer = service.post(gzip.compress(PUSH), Content_Encoding=how)
    assert (answer.status_code, "the body is compressed" in answer.text) == (415, True)
    assert service.post(PUSH, Content_Encoding="identity").status_code == 200


def test_tls_on_a_plain_port_is_named(service: Service) -> None:
    with pytest.raises(httpx.ConnectError):
        httpx.post(service.url.replace("http:", "https:"), content=PUSH)
    service.wait_for_log("TLS on a plain HTTP port: use http://, or a proxy that terminates TLS")
    assert httpx.get(service.url + "/healthz").status_code == 200


def test_health(service: Service) -> None:
    assert httpx.get(service.url + "/healthz").status_code == 200
    assert httpx.get(service.url + "/readyz").status_code == 200


known_words = st.sampled_from(
    (
        "object_kind event_name object_attributes project project_id id action ref before after "
        "user username created_at updated_at title commits path_with_namespace build_id build_status status slug"
    ).split()
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(known_words | st.text(max_size=8), inner, max_size=6),
    max_leaves=25,
)
kinds = st.sampled_from([*(webhook.kind for webhook in WEBHOOKS), *KIND_OF, "strange"])


@settings(deadline=None, max_examples=tries(80), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.dictionaries(known_words | st.text(max_size=8), json_values, max_size=8), kind=st.none() | kinds)
def test_no_json_object_makes_a_500(service: Service, body: dict[str, Any], kind: str | None) -> None:
    if kind is not None:
        body["object_kind"] = kind
    key = str(uuid.uuid4())
    raw = json.dumps(body).encode()  # ASCII: lone surrogates stay escaped, as JSON allows
    answer = service.post(raw, Idempotency_Key=key)
    assert answer.status_code == 200, answer.text
    assert sightings(service, f"source_id = '{key}'")[0][3] == raw.decode()


def test_secrets_reach_neither_ledger_nor_log(service: Service) -> None:
    headers: dict[str, Any] = {"X_Gitlab_Token": TOKEN, "Authorization": "Bearer secret-a", "X_My_Secret": "secret-b"}
    service.post(PUSH, Idempotency_Key=str(uuid.uuid4()), **headers)
    service.post(PUSH, path="/webhooks/gitlab/signed", X_Gitlab_Token="secret-c")
    stored = b"".join(file.read_bytes() for file in service.folder.glob("ledger.db*"))
    logged = json.dumps(service.logs)
    for secret in (TOKEN, "secret-a", "secret-b", "secret-c", SIGNING.removeprefix("whsec_")):
        assert secret.encode() not in stored
        assert secret not in logged


def test_200_while_the_ledger_is_locked_and_recorded_after(tmp_path: Path) -> None:
    """Webhooks wait in the intake: only its own disk makes a 503."""
    service = Service(tmp_path, ONE_HOOK).start()
    try:
        with sqlite3.connect(service.ledger, isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            for n in range(3):
                answer = service.post(PUSH, recorded=False, Idempotency_Key=f"held-up-{n}")
                assert answer.status_code == 200
            assert httpx.get(service.url + "/readyz").status_code == 200
            assert not sightings(service)
            other.execute("ROLLBACK")
        service.until_recorded()
        assert {row[1] for row in sightings(service)} == {f"held-up-{n}" for n in range(3)}
    finally:
        service.kill()


def test_503_while_the_intake_is_locked_and_200_after(tmp_path: Path) -> None:
    service = Service(tmp_path, ONE_HOOK).start()
    try:
        with sqlite3.connect(intake_path(service.ledger), isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            answer = service.post(PUSH, Idempotency_Key="held-up")
            assert (answer.status_code, "can't be written to disk" in answer.text) == (503, True)
            assert int(answer.headers["retry-after"]) > 0
            assert httpx.get(service.url + "/healthz").status_code == 200
            other.execute("ROLLBACK")
        assert service.post(PUSH, Idempotency_Key="held-up").status_code == 200
        assert len(sightings(service)) == 1
    finally:
        service.kill()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux can fill a running process's disk")
def test_503_while_the_disk_is_full_and_200_after(tmp_path: Path) -> None:
    service = Service(tmp_path, ONE_HOOK).start()
    try:
        assert service.post(PUSH, Idempotency_Key="before").status_code == 200
        receiver = service.pid_of("receiver")
        unlimited = resource.prlimit(receiver, resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
        for n in range(3):
            answer = service.post(PUSH, Idempotency_Key=f"full-{n}")
            assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        assert httpx.get(service.url + "/readyz").status_code == 503
        assert httpx.get(service.url + "/healthz").status_code == 200
        until(lambda: "receiver: failing" in service.run("status").stdout)
        resource.prlimit(receiver, resource.RLIMIT_FSIZE, unlimited)
        assert service.post(PUSH, Idempotency_Key="after").status_code == 200
        assert {row[1] for row in sightings(service)} == {"before", "after"}
        until(lambda: "receiver: failing" not in service.run("status").stdout)
    finally:
        service.kill()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux can fill a running process's disk")
def test_200_while_the_ledger_s_disk_is_full_and_recorded_after(tmp_path: Path) -> None:
    service = Service(tmp_path, ONE_HOOK).start()
    try:
        worker = service.pid_of("worker")
        unlimited = resource.prlimit(worker, resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
        for n in range(3):
            assert service.post(PUSH, recorded=False, Idempotency_Key=f"full-{n}").status_code == 200
        service.wait_for_log("the ledger can't be written")
        resource.prlimit(worker, resource.RLIMIT_FSIZE, unlimited)
        service.until_recorded()
        assert {row[1] for row in sightings(service)} == {f"full-{n}" for n in range(3)}
    finally:
        service.kill()


def test_one_change_that_can_t_be_written_takes_no_other_with_it(service: Service) -> None:
    """A body full of NUL escapes and huge numbers is stored like any other."""
    key = str(uuid.uuid4())
    body = (
        rb'{"object_kind":"push\u0000","ref":"a\u0000b","project_id":99999999999999999999,"user_username":"\ud800"}'
    )
    assert service.post(body, Idempotency_Key=key).status_code == 200
    assert sightings(service, f"source_id = '{key}'")[0][3] == body.decode()


def test_503_at_once_where_too_much_waits(tmp_path: Path) -> None:
    config = {**ONE_HOOK, "receiver": {**ONE_HOOK["receiver"], "max_pending_bytes": "3KiB"}}
    service = Service(tmp_path, config).start()
    try:
        with (
            sqlite3.connect(intake_path(service.ledger), isolation_level=None) as other,
            ThreadPoolExecutor(4) as pool,
        ):
            other.execute("BEGIN IMMEDIATE")  # so that deliveries wait
            posts = [pool.submit(service.post, PUSH, Idempotency_Key=f"waits-{n}") for n in range(4)]
            refused = next(as_completed(posts, timeout=20)).result()
            other.execute("ROLLBACK")
        assert refused.status_code == 503
        assert "too many bytes are waiting" in refused.text
        assert int(refused.headers["retry-after"]) > 0
        assert service.post(PUSH, Idempotency_Key="after").status_code == 200  # the room was given back
    finally:
        service.kill()


def test_different_bodies_under_one_idempotency_key_are_each_recorded(service: Service) -> None:
    """A gateway that sets a constant loses nothing; a delivery that comes again is none of its own."""
    bodies = [json.dumps({"object_kind": "push", "ref": f"refs/heads/{n}", "project_id": 7}).encode() for n in "abc"]
    for body in [*bodies, *bodies]:
        assert service.post(body, Idempotency_Key="constant").status_code == 200
    told = sightings(service, "source_id LIKE 'constant%'")
    assert [payload.encode() for *_, payload in told] == bodies
    assert len({source_id for _, source_id, *_ in told}) == 3
    service.wait_for_log(
        "different webhooks share one Idempotency-Key: all are recorded; check whether a proxy sets it"
    )
    assert service.post(bodies[0], Idempotency_Key="").status_code == 200
    assert service.post(bodies[1], Idempotency_Key="").status_code == 200
    assert not sightings(service, "source_id = ''")
