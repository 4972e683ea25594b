"""docs/installing.md's steps and the unit agree on who may read the config."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "packaging" / "systemd" / "gitlab-reconciler.service"


def unit() -> configparser.SectionProxy:
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]  # as configparser's page says
    parsed.read_string(UNIT.read_text())
    return parsed["Service"]


def step(command: str) -> list[str]:
    text = (ROOT / "docs" / "installing.md").read_text()
    found = re.search(rf"^{command} .*$", text, re.M)
    assert found is not None, command
    return shlex.split(found[0])


def test_the_unit_s_user_can_read_the_config_and_nobody_else_can() -> None:
    install, service = step("install"), unit()
    assert "DynamicUser" not in service  # its group is not known when the config is put there
    mode = int(install[install.index("-m") + 1], 8)
    group = install[install.index("-g") + 1]
    assert (mode & 0o040, mode & 0o027) == (0o040, 0)
    assert group == service["Group"]
    assert install[-1] in service["ExecStart"]
    assert install[-1] in service["ExecReload"]


def test_the_user_is_made_before_it_is_named() -> None:
    made = step("useradd")
    assert made[-1] == unit()["User"] == unit()["Group"]
    assert "--user-group" in made
    text = (ROOT / "docs" / "installing.md").read_text()
    assert text.index("\nuseradd") < text.index("\ninstall") < text.index("\nsystemctl enable")
