"""A project in which everything happened once that a source tells of."""

from __future__ import annotations

from reconciler.simulator.server import Simulator

PROJECT = 42


def let_everything_happen(gitlab: Simulator, hook_url: str) -> None:
    """Each kind of thing a few times, in a project that has a webhook which nobody answers."""
    world = gitlab.world
    world.add_project(PROJECT, "group/project")
    hook = gitlab.add_hook(PROJECT, hook_url)
    hook.first_pause_s = 0  # never off: its log has everything
    for _ in range(2):
        world.push(PROJECT)
        world.push(PROJECT, "next")
        issue, request = world.issue(PROJECT), world.merge_request(PROJECT)
        for edit in ("title", "label"):
            world.issue_does(PROJECT, issue, "update", edit=edit)
        world.merge_request_does(PROJECT, request, "update", edit="push")
        world.emoji(PROJECT, issue)
        on_request = world.note(PROJECT, on=request)
        world.note(PROJECT, on=issue)
        world.edit_note(PROJECT, on_request)
        world.emoji(PROJECT, on_request)
        milestone = world.milestone(PROJECT)
        world.milestone_does(PROJECT, milestone, "close")
        world.wiki(PROJECT, f"page-{world.new_id()}")
        world.pipeline(PROJECT)
        deployment = world.new_deployment(PROJECT)
        world.deployment_becomes(PROJECT, deployment, "success")
        world.release(PROJECT, f"v{world.new_id()}")
        world.switch_flag(PROJECT, f"flag-{world.new_id()}")
        world.tag(PROJECT, f"t{world.new_id()}")
    world.bulk_push(PROJECT)
    gitlab.courier.settle()
