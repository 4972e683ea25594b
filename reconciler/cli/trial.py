"""`destinations test NAME --send`: one test event, and how the destination responds."""

from __future__ import annotations

import asyncio

import typer

from reconciler.cli.common import FAILED, USAGE, fail, out, print_json, without_logs
from reconciler.cli.rendering import print_request
from reconciler.config.destinations import Destination
from reconciler.config.models import Config
from reconciler.forwarding.jail import TransformFailed
from reconciler.forwarding.trial import NotSent, try_out


def send_trial(config: Config, destination: Destination, *, bodies: bool, as_json: bool) -> None:
    """Send it once, regardless of filter, rate limit and state. Exits with 1 if it is not accepted."""
    try:
        with without_logs():
            done = asyncio.run(try_out(destination, gitlab_url=config.gitlab.url))
    except NotSent as error:
        fail(str(error), USAGE)
    except TransformFailed as error:
        fail(f"{error}. To see its output for recorded events: `destinations test {destination.name} --bodies`")
    if as_json:
        print_json(done.plain())
    else:
        if bodies:
            print_request(done.request)
        answer = done.answer
        result = "accepted" if answer.accepted else "not accepted"
        said = answer.error or ("" if answer.status is None else f"HTTP {answer.status}")
        if answer.accepted and answer.response:
            said += f": {answer.response}"
        out.print(f"{done.id} to {done.request.to}: {result}" + (f" ({said})" if said else ""))
    if not done.answer.accepted:
        raise typer.Exit(FAILED)
