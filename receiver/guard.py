"""Who may deliver: the hook's secret token, and GitLab's signing token (Standard Webhooks)."""

from __future__ import annotations

import hmac

from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from reconciler.config.models import Hook


class Guard:
    """Checks one hook's deliveries.

    Where a signing token is configured, a delivery that carries a signature must pass it and never falls back
    to the plain token; one without a signature may show the plain token, while hooks are being moved over
    (gitlab-facts, section 1). Signatures are good for 5 minutes, as the Standard Webhooks spec recommends.
    """

    def __init__(self, hook: Hook) -> None:
        self.source = hook.name
        self._token = hook.token.get_secret_value().encode() if hook.token else None
        self._signed = Webhook(hook.signing_token.get_secret_value()) if hook.signing_token else None

    def refusal(self, headers: dict[bytes, bytes], body: bytes) -> str | None:
        """Why this delivery is refused, or None where it may come in."""
        if self._signed is not None and b"webhook-signature" in headers:
            return self._signature_refusal(self._signed, headers, body)
        return self.token_refusal(headers)

    def token_refusal(self, headers: dict[bytes, bytes]) -> str | None:
        """What the headers alone say, so that a stranger's body need not be read."""
        if self._signed is not None and b"webhook-signature" in headers:
            return None
        if self._token is None:
            return "this hook takes signed deliveries only: set the signing token in GitLab"
        if not hmac.compare_digest(headers.get(b"x-gitlab-token", b""), self._token):
            return "X-Gitlab-Token is missing or wrong"
        return None

    @staticmethod
    def _signature_refusal(signed: Webhook, headers: dict[bytes, bytes], body: bytes) -> str | None:
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        try:
            shown = {name: headers.get(name.encode(), b"").decode("ascii") for name in names}
            signed.verify(body, shown, json_parse=False)
        except (WebhookVerificationError, ValueError) as error:  # ValueError: base64 or text that is none
            return f"the signature does not pass: {error}"
        return None
