"""Who may deliver: the hook's secret token, and GitLab's signing token (Standard Webhooks)."""

from __future__ import annotations

import hmac
import re
import time

from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from reconciler.config.models import HookConfig

SIGNATURE_AGE_S = 300
"""How old a signature may be, and how far ahead of our clock, as the Standard Webhooks specification recommends."""

_TIMESTAMP = re.compile(rb"\d{1,12}(\.\d{1,9})?")
_SIGNATURE = re.compile(rb"v1,[A-Za-z0-9+/]{43}=")
"""A SHA-256 in base64."""


class Guard:
    """Checks one hook's deliveries.

    Where a signing token is configured, a delivery that carries a signature must pass it and never falls back
    to the plain token; one without a signature may show the plain token, while hooks are being moved over
    (gitlab-facts, section 1).
    """

    def __init__(self, hook: HookConfig) -> None:
        self.source = hook.name
        self._token = hook.token.get_secret_value().encode() if hook.token else None
        self._signed = Webhook(hook.signing_token.get_secret_value()) if hook.signing_token else None

    def refusal_by_headers(self, headers: dict[bytes, bytes]) -> str | None:
        """What the headers alone say against a delivery: then its body need not be read."""
        if self._must_sign(headers):
            return _form_refusal(headers)
        return self._token_refusal(headers)

    def is_proven(self, headers: dict[bytes, bytes]) -> bool:
        """Whether the headers prove who delivers, before the body is read: a signature proves it only after that."""
        return self._token is not None and self._shows_token(headers)

    def refusal_by_body(self, headers: dict[bytes, bytes], body: bytes) -> str | None:
        """What the body says against a delivery whose headers are in order."""
        if self._signed is None or not self._must_sign(headers):
            return None
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        try:
            shown = {name: headers.get(name.encode(), b"").decode("ascii") for name in names}
            self._signed.verify(body, shown, json_parse=False)
        except (WebhookVerificationError, ValueError) as error:  # ValueError: base64 or text that is none
            return f"the signature does not pass: {error}"
        return None

    def _must_sign(self, headers: dict[bytes, bytes]) -> bool:
        return self._signed is not None and b"webhook-signature" in headers

    def _token_refusal(self, headers: dict[bytes, bytes]) -> str | None:
        if self._token is None:
            return "this hook takes signed deliveries only: set the signing token in GitLab"
        return None if self._shows_token(headers) else "X-Gitlab-Token is missing or wrong"

    def _shows_token(self, headers: dict[bytes, bytes]) -> bool:
        return self._token is not None and hmac.compare_digest(headers.get(b"x-gitlab-token", b""), self._token)


def _form_refusal(headers: dict[bytes, bytes]) -> str | None:
    """What can be said of a signature without the body: that it can't pass."""
    if not headers.get(b"webhook-id"):
        return "the signature does not pass: webhook-id is missing"
    stamp = headers.get(b"webhook-timestamp", b"")
    if _TIMESTAMP.fullmatch(stamp) is None:
        return "the signature does not pass: webhook-timestamp is no number of seconds"
    if abs(time.time() - float(stamp)) > SIGNATURE_AGE_S:
        return "the signature does not pass: webhook-timestamp is too old or too new; are both clocks right?"
    if not any(_SIGNATURE.fullmatch(one) for one in headers[b"webhook-signature"].split(b" ")):
        return "the signature does not pass: webhook-signature holds none of version 1"
    return None
