"""Keys of earlier versions are refused, and the message names the new key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reconciler.config.destination_kinds import BUILT_IN, find_kind
from reconciler.config.load import ConfigError, load
from reconciler.config.models import Config
from reconciler.config.renamed import RENAMED, new_name
from reconciler.config.unknown_keys import section_in

RECEIVER = "receiver: {{hooks: [{{token: t}}]{more}}}\n"
OTHERS = ("url: https://example.com", "servers: [h:1]", "path: x")
"""What the kinds need; what one of them does not know is refused too, and is not looked at here."""
KEYS = [
    pytest.param(old, new, kind, id=f"{old}-{kind}" if kind else old)
    for old, new in RENAMED.items()
    for kind in (BUILT_IN if old.startswith("destinations[]") else ("",))
    if not kind or old != "destinations[].keep" or kind == "file"
    if kind != "pull" or ("retry" not in old and "breaker" not in old)  # which it does not have at all
]


def refused(folder: Path, text: str, **environ: str) -> list[str]:
    file = folder / "config.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load(file, environ)
    return [str(mistake).replace(f"{folder}/", "") for mistake in raised.value.mistakes]


def with_key(old: str, kind: str, value: str) -> tuple[str, str]:
    """A config with an old key, and where the key stands in it."""
    section, _, key = old.rpartition(".")
    given = f"{key}: {value}"
    if section == "receiver":
        return RECEIVER.format(more=f", {given}"), "config.yaml:1: receiver"
    text = RECEIVER.format(more="")
    if section == "reconcile":
        return f"{text}reconcile:\n  {given}\n", "config.yaml:3: reconcile"
    below = section.removeprefix("destinations[]").removeprefix(".")
    given = f"{below}: {{{given}}}" if below else given
    place = f"config.yaml:5: destinations[0]{'.' + below if below else ''}"
    lines = ["destinations:", "- name: d", f"  kind: {kind}", f"  {given}", *(f"  {one}" for one in OTHERS)]
    return text + "\n".join(lines), place


@pytest.mark.parametrize(("old", "new", "kind"), KEYS)
def test_an_old_key_is_refused_with_its_new_name(tmp_path: Path, old: str, new: str, kind: str) -> None:
    text, place = with_key(old, kind, "1")
    assert f"{place}.{old.rpartition('.')[2]}: is now called `{new}`" in refused(tmp_path, text)


@pytest.mark.parametrize(("old", "new", "kind"), KEYS)
def test_also_where_its_value_comes_from_the_environment(tmp_path: Path, old: str, new: str, kind: str) -> None:
    text, place = with_key(old, kind, "'${VALUE}'")
    assert f"{place}.{old.rpartition('.')[2]}: is now called `{new}`" in refused(tmp_path, text, VALUE="1")


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_the_table_holds(old: str, new: str) -> None:
    """The new key is there, the old one is not."""
    steps = re.sub(r"^destinations\[\]\.?", "", old).split(".")
    section = find_kind("file").config if old.startswith("destinations[]") else Config
    for step in steps[:-1]:
        section = section_in(section.model_fields[step].annotation)
    assert new in section.model_fields
    assert steps[-1] not in section.model_fields


def test_a_key_that_only_one_kind_has_is_not_named_for_another(tmp_path: Path) -> None:
    text, _ = with_key("destinations[].keep", "http", "1")
    assert not any("max_files" in line for line in refused(tmp_path, text))


def test_a_key_that_never_had_another_name() -> None:
    assert new_name(("destinations", 12, "retry", "max_age")) is None
    assert new_name(("destinations", 12, "retry", "first")) == "initial_delay"
