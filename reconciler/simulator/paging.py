"""Offset pages, as GitLab's API has them."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

TOTALS_VANISH_AT = 10_000


def paged(request: Request, records: list[Any], *, most: int = 100, hidden: Any = lambda _: False) -> Response:
    """One page of a list. What is hidden is taken out after paging: pages come up short."""
    page = max(1, int(request.query_params.get("page", 1)))
    per_page = min(most, max(1, int(request.query_params.get("per_page", 20))))
    cut = records[(page - 1) * per_page : page * per_page]
    shown = [record for record in cut if not hidden(record)]
    return JSONResponse(shown, headers=_headers(request, page, per_page, len(records)))


def not_found() -> Response:
    return JSONResponse({"message": "404 Not Found"}, 404)


def _headers(request: Request, page: int, per_page: int, total: int) -> dict[str, str]:
    more = page * per_page < total
    headers = {"X-Page": str(page), "X-Per-Page": str(per_page), "X-Next-Page": str(page + 1) if more else ""}
    if total < TOTALS_VANISH_AT:
        headers |= {"X-Total": str(total), "X-Total-Pages": str(-(-total // per_page))}
    if more:
        headers["Link"] = f'<{request.url.include_query_params(page=page + 1)}>; rel="next"'
    return headers
