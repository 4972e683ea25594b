"""Jinja2 templates of a config. They run in a sandbox, and no part is evaluated before rendering."""

from __future__ import annotations

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment


def compiled_template(text: str) -> jinja2.Template:
    """Compile a template for the sandbox: event bodies are untrusted, and a template must reach only what it is
    given. A missing name is an error, not an empty text.

    Raises jinja2.TemplateSyntaxError, also for unknown filters and tests.
    """
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, autoescape=False, optimized=False, finalize=_as_it_is
    )
    tree = environment.parse(text)
    for node in tree.find_all((nodes.Filter, nodes.Test)):
        known = environment.filters if isinstance(node, nodes.Filter) else environment.tests
        if node.name not in known:  # inside an `if`, Jinja2 would notice only when it gets there
            what = type(node).__name__.lower()
            raise jinja2.TemplateAssertionError(f"No {what} named {node.name!r}.", node.lineno)
    for block in tree.find_all(nodes.EvalContextModifier):
        if not all(isinstance(option.value, nodes.Const) for option in block.options):
            raise jinja2.TemplateAssertionError("`autoescape` takes true or false.", block.lineno)
    return environment.from_string(text)


@jinja2.pass_context
def _as_it_is(_: jinja2.runtime.Context, value: object) -> object:
    """Taking the context keeps Jinja2 from evaluating `{{ 'a' * 10**9 }}` while it compiles."""
    return value
