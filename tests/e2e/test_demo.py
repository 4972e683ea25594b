"""The demo is a real run whose figures must agree."""

from __future__ import annotations

import re

import pytest

from tests.support.service import run


@pytest.mark.long
def test_demo() -> None:
    done = run("demo")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = {
        name.strip(): int(number) for name, number in re.findall(r"^([^\d\n]+?)\s+(\d+)\s*$", done.stdout, re.M)
    }
    assert figures["happened in GitLab"] == figures["delivered"] > 100
    assert figures["recorded by webhook"] + figures["recovered by API"] == figures["delivered"]
    assert figures["lost"] == 0
    assert figures["recovered by API"] > 10
    assert figures["duplicates removed"] > 0
