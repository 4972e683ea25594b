"""GitLab or the token dies under a running service: who is told, once, and once when it is over; what is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reconciler.simulator.consumer import Consumer
from reconciler.simulator.server import Simulator
from tests.conftest import PROJECT, MakeService, at_gitlab
from tests.e2e.test_destinations import alerts_to, said
from tests.support.service import Service, until
from tests.support.wire import Wire


def unknown(service: Service) -> list[dict[str, Any]]:
    shown = json.loads(service.run("status", "--json").stdout)
    assert next(iter(shown)) == "unknown"
    return [one for one in shown["unknown"] if one["kind"] != "webhook"]  # there is none in these


@pytest.mark.long
@pytest.mark.parametrize("dies", ["the token", "GitLab"])
def test_it_is_told_once_and_once_when_it_is_over(
    make_service: MakeService, gitlab: Simulator, consumer: Consumer, dies: str
) -> None:
    token = gitlab.api.token
    with Wire(int(gitlab.url.rpartition(":")[2])) as wire:
        # Two intervals are longer than a client's pause between tries: who pauses when GitLab comes back is not late.
        sections = at_gitlab(gitlab, interval="4s") | {
            "gitlab": {"url": f"http://127.0.0.1:{wire.port}", "token": token},
            "projects": [PROJECT, "group/nowhere"],
        }
        service = make_service(destinations=[alerts_to(consumer)], **sections).start()
        assert consumer.wait_for(lambda c: said(c) == [("project_not_read", "group/nowhere", "opened")], 60)
        assert [(one["kind"], one["name"]) for one in unknown(service)] == [("project", "group/nowhere")]
        if dies == "GitLab":
            wire.cut()
        else:
            gitlab.api.token = "another"
        assert consumer.wait_for(lambda c: len(said(c)) == 2, timeout_s=90)
        assert said(consumer)[1] == ("gitlab_not_read", f"http://127.0.0.1:{wire.port}", "opened")
        until(lambda: {one["name"] for one in unknown(service)[1:]} == {str(PROJECT), "group/nowhere"})
        first = unknown(service)[0]
        assert (first["kind"], first["trouble"]) == (
            "gitlab",
            "unavailable" if dies == "GitLab" else "token refused",
        )
        assert service.run("gaps", "--exit-code").returncode == 1
        if dies == "GitLab":
            wire.mend()
        else:
            gitlab.api.token = token
        assert consumer.wait_for(lambda c: len(said(c)) == 3, timeout_s=90)
        assert said(consumer)[2] == ("gitlab_not_read", f"http://127.0.0.1:{wire.port}", "over")
        until(lambda: [one["name"] for one in unknown(service)] == ["group/nowhere"])
        service.stop()
        assert unknown(service)[0]["kind"] == "service"


@pytest.mark.long
def test_nothing_was_ever_read(make_service: MakeService, consumer: Consumer) -> None:
    """Nobody listens where GitLab should be, from the start."""
    service = make_service(
        destinations=[alerts_to(consumer)],
        gitlab={"url": "http://127.0.0.1:9", "token": "glpat-x"},
        projects=[PROJECT],
        groups=["team"],
        reconcile={"interval": "1s", "full_poll_interval": "1s"},
    ).start()
    until(lambda: {one["name"] for one in unknown(service)} >= {str(PROJECT), "team"})
    shown = service.run("gaps", "--exit-code")
    assert (shown.returncode, shown.stdout.splitlines()[0]) == (1, "Unknown (times are UTC):")
    assert (
        "could not catch up with GitLab"
        in service.wait_for_log(
            "could not catch up with GitLab: something could not be read, and will be retried", 90
        )["event"]
    )
    assert consumer.wait_for(lambda c: len(said(c)) == 1, timeout_s=90)
    assert said(consumer) == [("gitlab_not_read", "http://127.0.0.1:9", "opened")]
    checked = service.run("check")
    assert checked.stdout.startswith("! unknown: gitlab http://127.0.0.1:9: unavailable since")
    done = service.run("backfill", "--from", "2026-11-01", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["unknown"][0]["kind"] == "gitlab"
    assert list(report["groups_not_read"]) == ["team"]
