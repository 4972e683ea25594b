"""Groups of commands that list if no subcommand is given."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class ListUnlessNamed(TyperGroup):
    """`events --kind push` is short for `events list --kind push`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)
