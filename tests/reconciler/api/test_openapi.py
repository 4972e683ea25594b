"""The OpenAPI description holds: schemathesis makes requests of it, and compares the answers with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.support.api import Client, config_for, some_events
from tests.support.effort import tries

LOCAL = {"Host": "localhost", "Sec-Fetch-Site": "same-origin"}
STRICTER = [positive_data_acceptance]
"""No schema says what a time is here, what a cursor, or which ids there are."""


def test_every_answer_is_one_that_the_description_names(tmp_path: Path) -> None:
    some_events(tmp_path / "ledger.db", 3, "archive")
    client = Client(config_for(tmp_path / "ledger.db", destinations=[{"name": "archive", "kind": "stdout"}]))
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", client.app, headers=LOCAL)
    assert schema.raw_schema["openapi"].startswith("3.1")
    operations = [one.ok() for one in schema.get_all_operations() if isinstance(one, Ok)]
    operations = [one for one in operations if one.path != "/events/stream"]  # its answer has no end
    assert len(operations) > 12
    answers = set()

    @settings(max_examples=tries(60), phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.one_of([one.as_strategy() for one in operations]))
    def check(case: Any) -> None:
        answers.add(case.call_and_validate(headers=LOCAL, excluded_checks=STRICTER).status_code)

    check()
    assert answers >= {200, 404, 422}
