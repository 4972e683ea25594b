"""`schema`: the JSON Schema of config.yaml, for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from reconciler.cli.common import USAGE, fail
from reconciler.config.destination_kinds import BUILT_IN, find_kind
from reconciler.config.models import Config


def schema(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file instead of stdout.")
    ] = None,
) -> None:
    """Print the JSON Schema of config.yaml."""
    text = schema_text()
    if output is None:
        typer.echo(text, nl=False)
    else:
        keep_others(output)
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            fail(f"{output}: can't be written: {error.strerror}")


def keep_others(output: Path) -> None:
    """End the program if there is a file at this path that is no schema, such as a config."""
    try:
        if not output.is_file():
            return
        there = output.read_bytes()
        is_schema = not there or "$schema" in orjson.loads(there)
    except (ValueError, TypeError):  # not JSON, or a number
        is_schema = False
    except OSError:  # writing it says what is wrong
        return
    if not is_schema:
        fail(f"{output}: is there already, and is no JSON Schema: give another name", USAGE)


def schema_text() -> str:
    """The schema, with `${NAME}` allowed wherever a number is."""
    made = Config.model_json_schema()
    _add_kinds(made)
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    made["title"] = "gitlab-reconciler config.yaml"
    _allow_variables(made)
    return orjson.dumps(made, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode() + "\n"


def _add_kinds(made: dict[str, Any]) -> None:
    """A destination is of one of the kinds that come with this package; of another's kind nothing is known here."""
    choices: list[Any] = []
    for name in BUILT_IN:
        model = find_kind(name).config
        one = model.model_json_schema(ref_template="#/$defs/{model}")
        made["$defs"] |= one.pop("$defs", {})
        if name != "http":  # which is the default
            one["required"] = ["kind", *one["required"]]
        made["$defs"][model.__name__] = one
        choices.append({"$ref": f"#/$defs/{model.__name__}"})
    choices.append(
        {
            "type": "object",
            "required": ["name", "kind"],
            "properties": {"kind": {"type": "string", "not": {"enum": list(BUILT_IN)}}},
        }
    )
    made["$defs"].pop("Destination", None)
    made["properties"]["destinations"]["items"] = {"anyOf": choices}


def _allow_variables(node: Any) -> None:
    """Numbers, and text of a set form, may also come from the environment."""
    if isinstance(node, list):
        for item in node:
            _allow_variables(item)
    if not isinstance(node, dict):
        return
    for item in list(node.values()):
        _allow_variables(item)
    if node.get("type") == "integer" or ("pattern" in node and "type" in node):
        plain = {key: node.pop(key) for key in list(node) if key not in ("default", "description", "title")}
        node["anyOf"] = [plain, {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}"}]
