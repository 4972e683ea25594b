"""The service's error. It has a module of its own so that commands can catch it without importing the service."""

from __future__ import annotations


class ServiceError(Exception):
    """The service can't start. The message says why."""
