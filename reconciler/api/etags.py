"""`ETag` and `If-None-Match`: what a client has already is not sent again."""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated

from fastapi import Header, Response

from reconciler.api.service import Responses

IfNoneMatch = Annotated[
    str | None,
    Header(max_length=1000, description="The `ETag` of an answer. If it would be the same now, the answer is 304."),
]
NOT_MODIFIED: Responses = {304: {"description": "The answer is the one with the `ETag` in `If-None-Match`."}}


def tagged(answer: Response, if_none_match: str | None) -> Response:
    """The answer with its `ETag`, or 304 without a body if the client has it."""
    tag = f'"{sha256(answer.body).hexdigest()[:32]}"'
    had = [one.strip().removeprefix("W/") for one in (if_none_match or "").split(",")]
    if tag in had or "*" in had:
        return Response(status_code=304, headers={"ETag": tag})
    answer.headers["ETag"] = tag
    return answer
