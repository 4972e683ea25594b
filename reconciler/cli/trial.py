"""`destinations test NAME --send`: one test event, and how the destination responds."""

from __future__ import annotations

import asyncio
from typing import Any

import typer

from reconciler.cli.common import FAILED, fail, out, print_json, without_logs
from reconciler.cli.rendering import Rendered, print_request, rendered
from reconciler.config.destination_kinds import find_kind
from reconciler.config.destinations import Destination
from reconciler.config.models import Config
from reconciler.events import times
from reconciler.forwarding.jail import TransformFailed
from reconciler.forwarding.kind import Kind, attempt, attempt_batch
from reconciler.forwarding.message import Answer
from reconciler.forwarding.trial import trial_message


def send_trial(config: Config, destination: Destination, *, bodies: bool, as_json: bool) -> None:
    """Send it once, regardless of filter, rate limit and state. Exits with 1 if it is not accepted."""
    with without_logs():
        test_id, request, answer = asyncio.run(_send(config, destination))
    if as_json:
        print_json(_plain(test_id, request, answer))
    else:
        if bodies:
            print_request(request)
        result = "accepted" if answer.accepted else "not accepted"
        said = answer.error or ("" if answer.status is None else f"HTTP {answer.status}")
        if answer.accepted and answer.response:
            said += f": {answer.response}"
        out.print(f"{test_id} to {request.to}: {result}" + (f" ({said})" if said else ""))
    if not answer.accepted:
        raise typer.Exit(FAILED)


async def _send(config: Config, destination: Destination) -> tuple[str, Rendered, Answer]:
    kind: Kind = find_kind(destination.kind)(destination)
    try:
        message = trial_message(destination, gitlab_url=config.gitlab.url, now=times.now())
        timeout_s = destination.timeout / 1000
        if destination.batching is None:
            answer = await attempt(kind, message, timeout_s=timeout_s)
        else:
            [answer] = await attempt_batch(kind, [message], timeout_s=timeout_s)
        return message.id, rendered(kind, message), answer
    except TransformFailed as error:
        fail(
            f"the transform can't be applied to a test event, which is not one of GitLab's: {error}. To see its "
            f"output for recorded events: `destinations test {destination.name} --bodies`"
        )
    finally:
        await kind.close()


def _plain(test_id: str, request: Rendered, answer: Answer) -> dict[str, Any]:
    return {
        "id": test_id,
        "to": request.to,
        "accepted": answer.accepted,
        "status": answer.status,
        "error": answer.error,
        "response": answer.response,
        "request": request.plain(),
    }
