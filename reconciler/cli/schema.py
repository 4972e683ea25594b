"""`schema`: the JSON Schema of config.yaml, for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from reconciler.config.models import Config


def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file, instead of stdout.")] = None,
) -> None:
    """Write the JSON Schema of config.yaml."""
    text = schema_text()
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


def schema_text() -> str:
    """The schema, with `${NAME}` allowed wherever a number is."""
    made = Config.model_json_schema()
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    made["title"] = "gitlab-reconciler config.yaml"
    _allow_variables(made)
    return orjson.dumps(made, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode() + "\n"


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
