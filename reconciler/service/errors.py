"""What a service can't do. By itself, so that commands know it without importing a service."""

from __future__ import annotations


class ServiceError(Exception):
    """The service can't start. The message says why."""
