"""The formatters of the destinations of `kind: pull`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from reconciler.config.destinations import Destination
from reconciler.config.models import Config
from reconciler.forwarding.formats import Formatter


class Made:
    """A destination's formatter. Whoever has the lock uses it, until it is closed."""

    def __init__(self, destination: Destination, formatter: Formatter) -> None:
        self.destination = destination
        self.formatter = formatter
        self.lock = threading.Lock()
        self.is_closed = False
        """Whether a message that it can't build says nothing about the event."""

    def close(self) -> None:
        """End its process. A message that is being built fails."""
        self.is_closed = True
        self.formatter.close()  # without the lock: a transform may take a minute


class PullFormatters:
    """The formatters of the destinations, made when they are first needed: a transform may have a process."""

    def __init__(self) -> None:
        self._made: dict[str, Made] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    @contextmanager
    def of(
        self, config: Config, destination: Destination, event_id: Callable[[int], str], *, until: float
    ) -> Iterator[Made | None]:
        """A destination's formatter, which nobody else uses meanwhile. None if others use it `until` then, in
        seconds of the monotonic clock, or after `close`.
        """
        while (made := self._get(config, destination, event_id)) is not None:
            if not made.lock.acquire(timeout=max(0.0, until - time.monotonic())):
                break
            try:
                if not made.is_closed:  # by a request that has read the config after a change
                    yield made
                    return
            finally:
                made.lock.release()
        yield None

    def close(self) -> None:
        """End their processes and threads, also of those in use. No more are made."""
        with self._lock:
            self._is_closed = True
            made = list(self._made.values())
            self._made.clear()
        for one in made:
            one.close()

    def _get(self, config: Config, destination: Destination, event_id: Callable[[int], str]) -> Made | None:
        wanted = {one.name: one for one in config.destinations}
        with self._lock:
            if self._is_closed:
                return None
            unused = [name for name, made in self._made.items() if wanted.get(name) != made.destination]
            closing = [self._made.pop(name) for name in unused]
            if destination.name not in self._made:
                formatter = Formatter(destination, event_id=event_id, gitlab_url=config.gitlab.url)
                self._made[destination.name] = Made(destination, formatter)
            found = self._made[destination.name]
        for one in closing:
            one.close()
        return found
