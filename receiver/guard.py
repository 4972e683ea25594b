"""Checks who sent a webhook: by the hook's secret token, or by GitLab's signing token (Standard Webhooks)."""

from __future__ import annotations

import hmac
import re
import time

from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from reconciler.config.models import HookConfig

SIGNATURE_AGE_S = 300
"""How far a signature's time may be from this machine's, as the Standard Webhooks specification recommends."""

_TIMESTAMP = re.compile(rb"\d{1,12}(\.\d{1,9})?")
_SIGNATURE = re.compile(rb"v1,[A-Za-z0-9+/]{43}=")
"""A SHA-256 in base64."""


class HookGuard:
    """Checks one hook's webhooks.

    Where a signing token is configured, a webhook with a signature must pass its check; the plain token is not
    enough. A webhook without a signature may still use the plain token, while hooks are being migrated
    (docs/gitlab.md, "Webhook deliveries").
    """

    def __init__(self, hook: HookConfig) -> None:
        self.source = hook.name
        self._token = hook.token.get_secret_value().encode() if hook.token else None
        self._signed = Webhook(hook.signing_token.get_secret_value()) if hook.signing_token else None

    def rejection_by_headers(self, headers: dict[bytes, bytes]) -> str | None:
        """Why the headers alone reject a webhook, so that its body need not be read; None if they don't."""
        if self._must_sign(headers):
            return _form_rejection(headers)
        return self._token_rejection(headers)

    def is_authenticated(self, headers: dict[bytes, bytes]) -> bool:
        """Whether the headers alone authenticate the sender. A signature does so only together with the body."""
        return self._token is not None and self._shows_token(headers)

    def rejection_by_body(self, headers: dict[bytes, bytes], body: bytes) -> str | None:
        """Why the body rejects a webhook whose headers are valid; None if it doesn't."""
        if self._signed is None or not self._must_sign(headers):
            return None
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        try:
            shown = {name: headers.get(name.encode(), b"").decode("ascii") for name in names}
            self._signed.verify(body, shown, json_parse=False)
        except (WebhookVerificationError, ValueError) as error:  # ValueError: invalid base64 or text
            return f"the signature is not valid: {error}"
        return None

    def _must_sign(self, headers: dict[bytes, bytes]) -> bool:
        return self._signed is not None and b"webhook-signature" in headers

    def _token_rejection(self, headers: dict[bytes, bytes]) -> str | None:
        if self._token is None:
            return "this hook accepts signed webhooks only: set the signing token in GitLab"
        return None if self._shows_token(headers) else "X-Gitlab-Token is missing or wrong"

    def _shows_token(self, headers: dict[bytes, bytes]) -> bool:
        return self._token is not None and hmac.compare_digest(headers.get(b"x-gitlab-token", b""), self._token)


def _form_rejection(headers: dict[bytes, bytes]) -> str | None:
    """Why a signature can't be valid, as far as the headers show; None if it may be valid."""
    if not headers.get(b"webhook-id"):
        return "the signature is not valid: webhook-id is missing"
    stamp = headers.get(b"webhook-timestamp", b"")
    if _TIMESTAMP.fullmatch(stamp) is None:
        return "the signature is not valid: webhook-timestamp is not a number of seconds"
    if abs(time.time() - float(stamp)) > SIGNATURE_AGE_S:
        return "the signature is not valid: webhook-timestamp is too old or too new; check both clocks"
    if not any(_SIGNATURE.fullmatch(one) for one in headers[b"webhook-signature"].split(b" ")):
        return "the signature is not valid: webhook-signature has no version 1 signature"
    return None
