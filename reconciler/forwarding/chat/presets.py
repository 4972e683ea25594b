"""`preset` of `kind: http`: one readable message for each event, in the form that a chat's incoming webhook takes.

Sources: Slack's reference of Block Kit (3,000 characters for a text) and of incoming webhooks; Mattermost's page of
incoming webhooks (16,383 characters, 4,000 in old databases); Discord's "Execute Webhook" (2,000 characters,
`allowed_mentions`, flag 4 for no embeds) and "Rate Limits"; Microsoft's pages on webhooks by Workflows (an Adaptive
Card, 28 KB, four requests per second).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

from reconciler.config.mistakes import Misplaced
from reconciler.events import times
from reconciler.events.fields import as_json, dig, parsed
from reconciler.events.times import Millis
from reconciler.forwarding.chat import markup
from reconciler.forwarding.chat.markup import escaped, utf16
from reconciler.forwarding.chat.saying import Said, said
from reconciler.forwarding.retry import retry_after

Preset = Literal["slack", "mattermost", "teams", "discord"]
OPEN = "Open in GitLab"
SLACK_TEXT = 3000
MATTERMOST_TEXT = 4000
DISCORD_CONTENT = 2000
TEAMS_BYTES = 28 * 1024
_MADE_BY_PRESET = ("format", "transform", "batch")
_RATES: dict[str, str] = {"slack": "1/s", "discord": "30/m", "teams": "4/s"}
"""What each chat allows a webhook."""
_NO_EMBEDS = 4


def with_preset(values: Any) -> Any:
    """A destination's keys with what its preset fills in. What is written beside it wins or, if it would replace the
    message, is refused.

    Raises Misplaced.
    """
    if not isinstance(values, dict) or values.get("preset") not in get_args(Preset):
        return values
    preset = values["preset"]
    what = f"`preset: {preset}` makes the message, so this key can't be used with it: remove one of the two"
    written = [((key,), what, ("preset",)) for key in _MADE_BY_PRESET if key in values]
    if written:
        raise Misplaced(*written)
    return {"rate_limit": _RATES.get(preset), **values}


class ChatMessage:
    """A transform that makes a chat's message."""

    def __init__(self, preset: str) -> None:
        self._preset = preset

    def __call__(self, event: dict[str, Any], payload: str) -> bytes:
        return as_json(request(self._preset, said(event, parsed(payload)))).encode()

    def close(self) -> None:
        """Nothing to release."""


def request(preset: str, told: Said) -> dict[str, Any]:
    """A chat's request, with everything cut to what is readable first."""
    headline = markup.plain(told.headline, markup.MOST_HEADLINE)
    return _REQUESTS[preset](Said(headline, markup.plain(told.text, markup.MOST_TEXT), markup.link(told.url)))


def _slack(told: Said) -> dict[str, Any]:
    """Only our own link is `mrkdwn`: nothing can be escaped in it but three characters."""
    lines = f"{told.headline}\n{told.text}".strip()
    text = escaped(lines, markup.slack, most=SLACK_TEXT, size=utf16)
    blocks = [{"type": "section", "text": {"type": "plain_text", "text": text, "emoji": False}}]
    if told.url:
        shown = f"<{told.url.replace('&', '&amp;')}|{OPEN}>"
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": shown, "verbatim": True}})
    return {"text": text, "blocks": blocks, "unfurl_links": False, "unfurl_media": False}


def _mattermost(told: Said) -> dict[str, Any]:
    tail = f"\n[{OPEN}]({told.url})" if told.url else ""
    return {"text": _lines(told, markup.mattermost, most=MATTERMOST_TEXT - utf16(tail)) + tail}


def _discord(told: Said) -> dict[str, Any]:
    tail = f"\n[{OPEN}](<{told.url}>)" if told.url else ""
    content = _lines(told, markup.discord, most=DISCORD_CONTENT - utf16(tail)) + tail
    return {"content": content, "allowed_mentions": {"parse": []}, "flags": _NO_EMBEDS}


def _lines(told: Said, escape: markup.Escape, *, most: int) -> str:
    """The headline, and the text as a quotation."""
    headline = escaped(markup.line_of_markdown(told.headline), escape, most=most, size=utf16)
    if not told.text:
        return headline
    begin = "\n> "
    left = most - utf16(headline + begin)
    return headline + begin + escaped(markup.line_of_markdown(told.text), escape, most=left, size=utf16)


def _teams(told: Said) -> dict[str, Any]:
    """An Adaptive Card, as the Workflows app posts it. A TextRun has no Markdown."""
    body = [_text_run(told.headline, bold=True)]
    if told.text:
        body.append(_text_run(told.text))
    card: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
    }
    if told.url:
        card["actions"] = [{"type": "Action.OpenUrl", "title": OPEN, "url": told.url}]
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _text_run(text: str, *, bold: bool = False) -> dict[str, Any]:
    run = {"type": "TextRun", "text": escaped(text, markup.teams, most=TEAMS_BYTES // 4, size=_utf8)}
    return {"type": "RichTextBlock", "inlines": [run | {"weight": "Bolder"} if bold else run]}


def _utf8(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


_REQUESTS: dict[str, Callable[[Said], dict[str, Any]]] = {
    "slack": _slack,
    "mattermost": _mattermost,
    "teams": _teams,
    "discord": _discord,
}


def asked_pause(body: str) -> Millis:
    """The pause that Discord asks for in the JSON of a 429 (`retry_after`, in seconds); 0 if there is none."""
    try:
        seconds = dig(parsed(body), "retry_after")
    except ValueError:
        return Millis(0)
    return retry_after(str(seconds), now=times.now())
