"""Uses every type of GitLab's answers for the first time, in two threads at once.

A process of its own, because a type is used for the first time only once, and because msgspec can crash: while it
prepares a type, it fills in the fields one by one, and Python code runs for the types of the fields.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from types import FrameType

from reconciler.sources import answers, checked
from reconciler.sources.errors import UnexpectedAnswer


def use(shape: type[answers.Shape]) -> None:
    """Check objects with each of its fields."""
    for field in shape.__struct_fields__:
        with contextlib.suppress(UnexpectedAnswer):
            checked.read("GET /", {field: {}}, shape)


def use_in_two_threads(shape: type[answers.Shape]) -> None:
    """If the first use prepares the type, the second happens in the middle of that."""

    def in_the_middle(frame: FrameType, event: str, _: object) -> None:
        is_preparing = event == "call" and frame.f_code.co_name == "get_class_annotations"
        if is_preparing and frame.f_locals["obj"] is not shape:
            other = threading.Thread(target=use, args=(shape,))
            other.start()
            other.join()

    sys.setprofile(in_the_middle)
    use(shape)
    sys.setprofile(None)


if __name__ == "__main__":
    for one in reversed(answers.Shape.__subclasses__()):  # what a type consists of is defined before it
        use_in_two_threads(one)
