"""The API's app: its routes, its errors, its OpenAPI description, and a page to try it."""

from __future__ import annotations

import sqlite3
from importlib.resources import files
from typing import Any

import structlog
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from reconciler import __version__
from reconciler.api import backfills, discarding, live, models, pulling, reading, writing
from reconciler.api.problems import PROBLEM_JSON, Problem, problem
from reconciler.api.queries import as_expected
from reconciler.api.service import Service
from reconciler.forwarding.replaying import ReplayInterrupted
from reconciler.ledger.errors import LedgerError
from reconciler.ledger.storage.connection import explain

BASE = "/api/v1"
ABOUT = (
    "Events, deliveries and coverage of gitlab-reconciler. Answers have the shapes of the commands' `--json`. Errors "
    "are problem details (RFC 9457). `docs/api.md` has examples."
)
_PROBLEMS = {
    400: "The body can't be read.",
    401: "The token is missing or wrong.",
    403: "The token may only read, or the request comes from another site.",
    405: "The method is not possible at this path.",
    413: "The body is too large.",
    415: "The body is not JSON, by its `Content-Type`.",
    422: "A parameter or the body is wrong.",
    429: "Too many wrong tokens.",
    500: "A bug.",
    503: "The ledger can't be used at the moment.",
}
_CONTENT = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}

log = structlog.get_logger(__name__)


def api_app(service: Service) -> FastAPI:
    """The ASGI app of the API, to be mounted at `BASE`."""
    app = FastAPI(
        title="gitlab-reconciler",
        version=__version__,
        description=ABOUT,
        servers=[{"url": BASE}],
        root_path_in_servers=False,
        dependencies=[Depends(as_expected)],
        docs_url=None,
        redoc_url=None,
        responses={status: {"description": what} for status, what in _PROBLEMS.items()},
        exception_handlers={
            Problem: _problem,
            HTTPException: _http_error,
            RequestValidationError: _wrong_parameters,
            LedgerError: _no_ledger,
            sqlite3.Error: _no_ledger,
            ReplayInterrupted: _no_ledger,
            Exception: _bug,
        },
    )
    app.state.service = service
    app.include_router(live.router)  # first: `/events/stream` is no event
    app.include_router(reading.router)
    app.include_router(writing.router)
    app.include_router(discarding.router)
    app.include_router(backfills.router)
    app.include_router(pulling.router)
    app.add_api_route("/docs", _page, include_in_schema=False)
    app.mount("/ui", StaticFiles(packages=[("fastapi_swagger", "resources"), ("reconciler.api", "static")]))
    app.openapi = lambda: _description(app)  # type: ignore[method-assign]
    return app


def _description(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document. All errors are problem details."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            servers=app.servers,
            routes=app.routes,
        )
        parts = made["components"]
        reference = "#/components/schemas/{model}"
        shapes = {one.__name__: one.model_json_schema(ref_template=reference) for one in (models.Problem,)}
        for name, shape in shapes.items():
            parts["schemas"] |= shape.pop("$defs", {}) | {name: shape}
        for path in made["paths"].values():
            for operation in path.values():
                for status, answer in operation["responses"].items():
                    if not status.startswith(("2", "3")):
                        answer["content"] = _CONTENT
        parts["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer", "description": "`admin.token` or `admin.read_token`."}
        }
        made["security"] = [{"token": []}, {}]
        app.openapi_schema = made
    return app.openapi_schema


async def _page() -> Response:
    return HTMLResponse(files("reconciler.api").joinpath("static/try.html").read_text("utf-8"))


async def _problem(_: Request, error: Problem) -> Response:
    return problem(error.status, error.detail, headers=error.headers)


async def _http_error(request: Request, error: HTTPException) -> Response:
    if error.status_code == 404:
        detail = f"there is nothing at this path: {BASE}/docs lists what there is"
    elif error.status_code == 405:
        detail = f"{request.method} is not possible at this path"
    else:
        detail = str(error.detail)
    return problem(error.status_code, detail, headers=error.headers)


async def _wrong_parameters(_: Request, error: RequestValidationError) -> Response:
    """Names each wrong parameter, without its value: it may be long, or a secret in the wrong place."""
    for one in error.errors():
        if one["type"] == "json_invalid":
            why = one.get("ctx", {}).get("error", "it can't be read")
            return problem(400, f"the body is not JSON: {why}, at character {one['loc'][-1]}")
    errors = [{"where": ".".join(map(str, one["loc"])), "detail": str(one["msg"])} for one in error.errors()]
    return problem(422, "; ".join(f"{one['where']}: {one['detail']}" for one in errors[:5]), errors=errors)


async def _no_ledger(request: Request, error: Exception) -> Response:
    why = explain(error) if isinstance(error, sqlite3.Error) else str(error)
    log.error("request not answered", path=request.url.path, reason=why)
    return problem(503, why)


async def _bug(_: Request, error: Exception) -> Response:
    return problem(500, f"a bug: {type(error).__name__}; the log says more")
