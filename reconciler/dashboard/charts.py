"""Charts of a destination's attempts, as the sizes of bars. The template draws them as SVG."""

from __future__ import annotations

import msgspec

from reconciler.events.times import Millis
from reconciler.ledger.views.traffic import Period, Slot

HEIGHT = 100
_LEAST = 2
"""A bar that is not empty can be seen."""


class Bar(msgspec.Struct, frozen=True):
    """One slot of a chart. The two parts of `counts` stand on each other, those of `latency` in each other."""

    slot: Slot
    delivered: int
    failed: int
    median: int
    p95: int


class Chart(msgspec.Struct, frozen=True):
    """A period with its bars, and the values that the highest ones stand for."""

    name: str
    slot_name: str
    total: Slot
    bars: list[Bar]
    most: int
    slowest: int | None

    @property
    def marks(self) -> list[Millis]:
        """Times to write below: of the first slot, the one in the middle, and the last."""
        starts = [bar.slot.start for bar in self.bars]
        return [starts[0], starts[len(starts) // 2], starts[-1]]


def chart(name: str, slot_name: str, period: Period) -> Chart:
    """A period as a chart."""
    most = max(slot.delivered + slot.failed for slot in period.slots)
    slowest = max((slot.p95 for slot in period.slots if slot.p95 is not None), default=None)
    bars = [_bar(slot, most, slowest or 0) for slot in period.slots]
    return Chart(name, slot_name, period.total, bars, most, slowest)


def _bar(slot: Slot, most: int, slowest: int) -> Bar:
    failed = _height(slot.failed, most)
    delivered = min(_height(slot.delivered, most), HEIGHT - failed)
    return Bar(slot, delivered, failed, _height(slot.median, slowest), _height(slot.p95, slowest))


def _height(value: int | None, most: int) -> int:
    return 0 if value is None or not most else max(_LEAST, round(HEIGHT * value / most)) if value else 0
