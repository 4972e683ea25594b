"""Groups of commands. Their help has no types of Python in it; some list if no subcommand is given."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

_VALUES = {
    "--config": "FILE",
    "--output": "FILE",
    "--from": "TIME",
    "--to": "TIME",
    "--limit": "N",
    "--delivery": "N",
}
"""What help calls the value of an option, unless that is the option's own name."""


class Group(TyperGroup):
    """A group whose help shows `NAME EVENT` and `--limit N`, as the pages do. typer would show types of Python."""

    def get_params(self, ctx: Any) -> Any:
        params = super().get_params(ctx)
        for one in params:
            _show_plainly(one)
        return params

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = super().get_command(ctx, cmd_name)
        if found is not None:
            for one in found.get_params(ctx):
                _show_plainly(one)
        return found


class ListUnlessNamed(Group):
    """`events --kind push` is short for `events list --kind push`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def _show_plainly(one: Any) -> None:
    if one.param_type_name == "argument":
        one.metavar = one.metavar or one.name.upper()
        one.display_type_rich = _nothing
    elif one.is_flag:
        one.metavar = ""
    elif one.metavar is None:
        name = max(one.opts, key=len)
        one.metavar = _VALUES.get(name, name.lstrip("-").upper())


def _nothing(ctx: Any) -> None:
    """An argument has no type to show."""
