"""Errors as problem details (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

PROBLEM_JSON = "application/problem+json"


class Problem(Exception):
    """Ends a request with this status. `detail` says what is wrong, where, and what to do."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


def problem(
    status: int,
    detail: str,
    *,
    errors: list[dict[str, str]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A response with problem details. `errors` names the parameters that are wrong."""
    return Response(as_problem(status, detail, errors=errors), status, headers, PROBLEM_JSON)


def as_problem(status: int, detail: str, *, errors: list[dict[str, str]] | None = None) -> str:
    """Problem details as JSON, in one line."""
    said: dict[str, Any] = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if errors is not None:
        said["errors"] = errors
    return json.dumps(said)
