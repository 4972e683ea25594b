"""Subjects, topics and routing keys: patterns like `gitlab.{project_id}.{kind}`, rendered for each message."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator

from reconciler.forwarding.message import Message

_FIELD = re.compile(r"\{([^{}]*)\}")
_KNOWN = ("project_id", "project_path", "kind", "action")


def _pattern(text: str) -> str:
    unknown = sorted(set(_FIELD.findall(text)) - set(_KNOWN))
    if unknown or re.search(r"[{}]", _FIELD.sub("", text)):
        what = f"{{{unknown[0]}}} is not known" if unknown else "there is a single brace"
        raise ValueError(f"{what}: known fields are {', '.join('{' + name + '}' for name in _KNOWN)}")
    if not text.strip():
        raise ValueError("should not be empty")
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]


def render(pattern: str, message: Message, clean: Callable[[str], str]) -> str:
    """Replace the fields of a pattern by the message's values, each passed through `clean` for the broker."""
    return _FIELD.sub(lambda found: clean(message.about[found[1]]) or "-", pattern)


def word(text: str) -> str:
    """A value as one token of a subject: only letters, digits, `_` and `-`; anything else becomes `_`."""
    return re.sub(r"[^\w-]", "_", text, flags=re.ASCII)
