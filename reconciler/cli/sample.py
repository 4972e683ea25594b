"""The sample config, which `init` writes as it is and `setup` fills in."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

import yaml

SAMPLE_TOKEN = "change-me"  # noqa: S105 - a placeholder that a random token replaces


def sample(schema_name: str) -> str:
    """The sample that came with the package, or that of the source tree. Its first line names the schema's file."""
    packaged = resources.files("reconciler") / "sample_config.yaml"
    if packaged.is_file():
        text = packaged.read_text(encoding="utf-8")
    else:
        text = (Path(__file__).parents[2] / "config.yaml").read_text(encoding="utf-8")
    return text.replace("docs/config.schema.json", schema_name)


def filled_in(
    text: str,
    *,
    gitlab_url: str,
    token_file: str | None,
    projects: list[str],
    receiver_url: str | None,
    webhook_token_file: str,
    destination: list[str],
) -> str:
    """The sample with these values; its comments stay. Without `token_file` the token comes from the environment.
    `destination` has the lines of the first one.
    """
    changes = [
        (r"  url: \$\{GITLAB_URL:-\S+\}", f"  url: {scalar(gitlab_url)}"),
        (r"projects: \[\]", "\n".join(["projects:", *(f"  - {scalar(one)}" for one in projects)])),
        (r"      token: \$\{GITLAB_WEBHOOK_TOKEN\S+", f"      token_file: {scalar(webhook_token_file)}"),
        (r"destinations: \[\]", "\n".join(["destinations:", *destination, "#"])),
    ]
    if token_file is not None:
        changes += [(r"  token: \$\{GITLAB_TOKEN:-\}\n  # token_file: .*", f"  token_file: {scalar(token_file)}")]
    if receiver_url is not None:
        changes += [(r"  # url: https://events\.example\.com", f"  url: {scalar(receiver_url)}")]
    for pattern, value in changes:
        text = _replaced(pattern, value, text)
    return text


def _replaced(pattern: str, value: str, text: str) -> str:
    """The text with one line, or lines that follow each other, replaced."""
    text, count = re.subn(f"^{pattern}", lambda _: value, text, flags=re.M)
    if count != 1:
        raise ValueError(f"the sample config has {count} lines like {pattern!r}")
    return text


def scalar(text: str) -> str:
    """Text as a value in YAML, in quotes where it would be read as something else."""
    text = text.replace("$", "$$")  # a bare dollar sign names an environment variable
    try:
        plain = yaml.safe_load(f"- {text} #")
    except yaml.YAMLError:
        plain = None
    return text if plain == [text] else json.dumps(text, ensure_ascii=False)
