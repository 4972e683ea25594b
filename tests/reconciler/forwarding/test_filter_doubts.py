"""What a filter names and nobody has heard of: a warning, since it may still come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from reconciler.config.models import Config
from reconciler.events import times
from reconciler.events.webhook_sighting import webhook_sighting
from reconciler.forwarding.filter_doubts import doubts
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.views.search import index_step
from reconciler.location import Location
from tests.conftest import PATH, MakeService

NOW = times.now()


@pytest.fixture
def db(ledger_at: Location) -> Iterator[Database]:
    """A ledger that has heard of project 7, and of an event of a kind that we don't know."""
    body = {"object_kind": "epic", "project": {"id": 7, "path_with_namespace": "heard/of"}, "action": "promote"}
    told = webhook_sighting(
        body, payload="{}", source="webhook:default", source_id="1", event_uuid=None, seen_at=NOW, headers={},
        project_ids={},
    )  # fmt: skip
    with closing(connect(ledger_at)) as db:
        with transaction(db):
            record(db, [told], now=NOW)
            index_step(db)
        yield db


def doubted(db: Database, wanted: dict[str, Any], **sections: Any) -> list[str]:
    one = {"name": "d", "kind": "stdout", "filter": wanted}
    config = {"receiver": {"hooks": [{"token": "t"}]}, "destinations": [one], **sections}
    return [why for _, why in doubts(Config.model_validate(config), db)]


@pytest.mark.parametrize(
    ("wanted", "sections", "says"),
    [
        ({"projects": [7, "heard/of", "heard/*", "*"]}, {}, []),
        ({"projects": [8]}, {}, ["has the id 8"]),
        ({"projects": ["other/*"]}, {}, ["matches other/*"]),
        ({"projects": ["Heard/of", "ACME/*"]}, {"groups": ["Acme"]}, []),  # GitLab's paths ignore case
        ({"projects": ["named/x"]}, {"projects": ["named/x"]}, []),
        ({"projects": [8]}, {"projects": [8]}, []),
        ({"projects": ["acme/*", "acme/web/site", "ac*"]}, {"groups": ["acme"]}, []),
        ({"projects": ["acme2/*"]}, {"groups": ["acme"]}, ["matches acme2/*"]),
        # Known by the other of id and path: before the first poll nobody can tell.
        ({"projects": ["group/project"]}, {"projects": [8]}, []),
        ({"projects": [8]}, {"projects": ["group/project"]}, []),
        ({"projects": ["group/project"]}, {"projects": [7]}, ["matches group/project"]),
        ({"projects": ["acme/x"]}, {"groups": [3]}, []),
        ({"projects": [8]}, {"groups": ["acme"]}, []),
        ({"kinds": ["epic"], "actions": ["promote"]}, {}, []),
        ({"kinds": ["requirement", "issue"]}, {}, ["'requirement' is not known"]),
        ({"kinds": ["issue"], "actions": ["open", "graduate"]}, {}, ["'graduate' is not known"]),
        (
            {"kinds": ['"\0', "AND"]},
            {},
            ["'AND' is not known", "is not known from GitLab"],
        ),  # whatever a word is, it can be looked for
    ],
)
def test_doubts(db: Database, wanted: dict[str, Any], sections: dict[str, Any], says: list[str]) -> None:
    found = doubted(db, wanted, **sections)
    assert len(found) == len(says)
    assert all(any(part in why for why in found) for part in says)


def test_check_and_serve_say_so_and_go_on(make_service: MakeService) -> None:
    wanted = {"projects": ["grup/*"], "kinds": ["requirement"]}
    one = {"name": "out", "kind": "stdout", "filter": wanted}
    service = make_service(destinations=[one], projects=[{"project": PATH}, {"project": "group/other"}]).start()
    for word in ("grup/*", "requirement"):
        said = [line for line in service.logs if line["event"] == "filter may not match as intended"]
        assert [line["destination"] for line in said if word in line["reason"]] == ["out"]
    done = service.run("check")
    assert "grup/*" in done.stdout
    assert "requirement" in done.stdout
