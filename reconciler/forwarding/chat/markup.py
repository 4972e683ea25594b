"""Each chat's markup: text from GitLab is shown as it is written, and neither notifies anyone nor formats anything.

Sources: Slack's "Formatting text for app surfaces" (escaping), Mattermost's and Discord's pages about Markdown and
mentions, the Adaptive Cards schema (a TextRun has no Markdown).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

MOST_TEXT = 1000
"""How many characters of a title, comment or alert are shown: a chat is for a glance, and there is a link."""
MOST_HEADLINE = 500
MOST_URL = 500
"""A longer link is left out: half a link leads nowhere."""
CUT = "…"
BREAK = "\u200b"
"""A zero-width space. It separates what would be a mention, a link or an emoji, and is not seen."""

_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]+")
"""Control characters, and those that change the direction of text or hide in it."""

Escape = Callable[[str, str], str]
"""Escapes one character of a text; it gets the character that follows, too."""

_BEGINS_BLOCK = re.compile(r"[-+=]|\d+[.)]")
"""What begins a list, or turns the line above into a heading, at the beginning of a line of Markdown."""
_SPACE = " "


def plain(text: str, most: int) -> str:
    """Text in one line, without hidden characters, and cut."""
    line = " ".join(_HIDDEN.sub(" ", text).split())
    return line if len(line) <= most else line[: most - len(CUT)].rstrip() + CUT


def link(url: str) -> str:
    """A URL that no chat's markup ends or changes; empty if it is not one of HTTP, or is too long."""
    if not url.startswith(("http://", "https://")):
        return ""
    safe = quote(_HIDDEN.sub("", url), safe="/:?#@!$&'+,;=%~-._")
    return safe if len(safe) <= MOST_URL else ""


def escaped(text: str, escape: Escape, *, most: int, size: Callable[[str], int] = len) -> str:
    """Text with each character escaped, cut to a size. No escape is cut in the middle."""
    parts = [escape(one, following) for one, following in zip(text, text[1:] + _SPACE, strict=True)]
    if sum(map(size, parts)) <= most:
        return "".join(parts)
    kept, left = [], most - size(CUT)
    for part in parts:
        left -= size(part)
        if left < 0:
            break
        kept.append(part)
    return "".join(kept) + CUT


def utf16(text: str) -> int:
    """The length as JavaScript counts it, which is never less than the number of characters."""
    return len(text.encode("utf-16-le", "replace")) // 2


def line_of_markdown(text: str) -> str:
    """Text that begins a line of Markdown, and neither a list nor a heading."""
    return BREAK + text if _BEGINS_BLOCK.match(text) else text


def slack(character: str, _following: str) -> str:
    """Slack's three control characters. Everything else is literal in a text of the type `plain_text`."""
    return {"&": "&amp;", "<": "&lt;", ">": "&gt;"}.get(character, character)


def mattermost(character: str, following: str) -> str:
    """Markdown. What begins a mention, hashtag, emoji or URL is separated from what follows it."""
    made = "\\" + character if character in "\\`*_[]#>|~" else character
    is_www = character in "wW" and following in "wW"  # `www.example.com` and `www3.example.com` are links, too
    return made + BREAK if is_www or (character in "@:#~&<$" and following != _SPACE) else made


def discord(character: str, _following: str) -> str:
    """Markdown. A backslash works before any punctuation; mentions are switched off in the request, too."""
    return "\\" + character if character in "\\`*_[]#>|~<@:" else character


def teams(character: str, following: str) -> str:
    """A TextRun has no markup but functions such as `{{DATE(…)}}`."""
    return character + BREAK if character == following == "{" else character
