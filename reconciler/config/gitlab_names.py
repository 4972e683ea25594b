"""How a config names a project or a group of GitLab: by its numeric ID or by its path."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

from reconciler.config.basics import number_in_text

LONGEST_PATH = 1000


def _project(value: object) -> int | str:
    return _id_or_path(value, r"[^/\s]+(/[^/\s]+)+", "a project's numeric id or its path like `group/project`")


def _group(value: object) -> int | str:
    return _id_or_path(value, r"[^/\s]+(/[^/\s]+)*", "a group's numeric id or its path like `group/subgroup`")


def _id_or_path(value: object, path: str, what: str) -> int | str:
    value = number_in_text(value)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str) and len(value) <= LONGEST_PATH and re.fullmatch(path, value):
        return value
    raise ValueError(f"should be {what}")


ProjectName = Annotated[int | str, BeforeValidator(_project)]
GroupName = Annotated[int | str, BeforeValidator(_group)]
