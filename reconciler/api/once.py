"""`Idempotency-Key`: a write that is sent again is not carried out again, and gets the same answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from typing import Annotated, Any

from fastapi import Header, Response

from reconciler.api.problems import Problem
from reconciler.api.service import Json, Service
from reconciler.events import times
from reconciler.events.fields import as_json
from reconciler.ledger.errors import LedgerError
from reconciler.ledger.queue import once

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="A text that the client makes up for this request, such as a UUID. If the request is sent again "
        "with it within a day, it is not carried out again, and the answer is the same.",
    ),
]


def carried_out(service: Service, key: str | None, request: list[Any], do: Callable[[], Any]) -> Response:
    """The JSON answer of `do`, which is called unless a request with this key was carried out before. `request` is
    what must be the same then. `do` raises Problem or LedgerError only if nothing was changed. Raises Problem.
    """
    if key is None:
        return Json(do())
    asked = sha256(as_json(request).encode("utf-8", "replace")).hexdigest()
    begun = times.now()
    with service.writing() as db:
        kept = once.begin(db, key, asked, now=begun)
    if kept is not None:
        return _again(kept, asked)
    try:
        answer = as_json(do())
    except (Problem, LedgerError):  # nothing was changed
        with suppress(LedgerError), service.writing() as db:
            once.forget(db, key, begun=begun)
        raise
    with service.writing() as db:
        once.complete(db, key, asked, answer, begun=begun)
    return Json(answer)


def _again(kept: once.Kept, asked: str) -> Response:
    if kept.request != asked:
        raise Problem(422, "Idempotency-Key: was used for another request: make up a new one")
    if kept.answer is None:
        raise Problem(
            409,
            "Idempotency-Key: a request with it is being carried out, or was interrupted: see what became of it, and "
            "use a new one to send it again",
        )
    return Json(kept.answer)
