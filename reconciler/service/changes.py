"""Compares a new config with the one that a running service uses."""

from __future__ import annotations

from reconciler.config.models import Config


def fixed_keys(old: Config, new: Config, port: int) -> list[str]:
    """The changed keys that need a restart; `port` is the one that the service listens on."""
    keys: tuple[str, ...] = (
        "receiver.host",
        "receiver.port",
        "receiver.keep_alive",
        "ledger.path",
        "ledger.url",
        "metrics.host",
        "metrics.port",
        "gitlab.url",
    )
    keys += ("admin.host", "admin.port", "admin.token", "admin.read_token")
    changed = [key for key in keys if _value(old, key) != _value(new, key)]
    return [key for key in changed if key != "receiver.port" or new.receiver.port != port]


def asks_differently(old: Config, new: Config) -> bool:
    """Whether the new config changes what GitLab is asked, or how."""
    return any(
        getattr(old, section) != getattr(new, section)
        for section in ("gitlab", "projects", "groups", "reconcile", "receiver")
    )


def _value(config: Config, key: str) -> object:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)
