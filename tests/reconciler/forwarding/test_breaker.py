"""The circuit breaker, and the rate limit."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reconciler.config.destinations import BreakerConfig, Destination, RetryConfig
from reconciler.events.times import Millis
from reconciler.forwarding.breaker import CircuitBreaker
from reconciler.forwarding.rate import SendRate
from reconciler.ledger.queue.destinations import Breaker


def breaker(state: Breaker | None = None, **more: Any) -> CircuitBreaker:
    settings: dict[str, Any] = {
        "breaker": BreakerConfig(failures=3, max_delay="8s"),
        "retry": RetryConfig(initial_delay="1s"),
    }
    destination = Destination(name="d", concurrency=4, **(settings | more))
    return CircuitBreaker(destination, Breaker() if state is None else state, now=Millis(0))


def may_start(one: CircuitBreaker, now: Millis) -> bool:
    return one.room > 0 and one.wait(now) == 0


def state(one: CircuitBreaker) -> str:
    return one.state.state


def open_it(one: CircuitBreaker, now: int = 0) -> None:
    for _ in range(3):
        one.failed(one.started(), now=Millis(now), at=Millis(now))


def test_full_width_until_so_many_failures_in_a_row() -> None:
    one = breaker()
    for _ in range(2):
        one.failed(one.started(), now=Millis(0), at=Millis(0))
    one.succeeded(one.started(), at=Millis(0))  # the row is broken
    for _ in range(2):
        one.failed(one.started(), now=Millis(0), at=Millis(0))
    assert one.is_closed
    assert one.wait(Millis(0)) == 0
    one.failed(one.started(), now=Millis(7), at=Millis(7))
    assert (one.state.state, one.state.failures, one.state.changed_at) == ("open", 3, 7)


def test_while_open_one_probe_at_a_time_goes_out() -> None:
    one = breaker()
    open_it(one)
    now = one.state.until
    assert now > 0
    assert not may_start(one, Millis(now - 1))
    assert may_start(one, now)
    probe = one.started()
    assert state(one) == "half_open"
    assert not may_start(one, Millis(10**9))
    one.failed(probe, now=now, at=now)
    assert state(one) == "open"
    assert one.state.changed_at == 0  # since when it is down
    assert not may_start(one, now)
    now = one.state.until
    one.succeeded(one.started(), at=now)
    assert (one.state.state, one.state.failures, one.state.changed_at) == ("closed", 0, now)
    assert may_start(one, now)


def test_what_was_sent_before_it_opened_says_nothing_more() -> None:
    one = breaker()
    early = [one.started() for _ in range(4)]
    for generation in early[:3]:
        one.failed(generation, now=Millis(0), at=Millis(0))
    state = one.state
    one.failed(early[3], now=Millis(5), at=Millis(5))
    assert one.state == state
    one = breaker()
    early = [one.started() for _ in range(4)]
    for generation in early[:3]:
        one.failed(generation, now=Millis(0), at=Millis(0))
    one.succeeded(early[3], at=Millis(5))
    assert one.state.state == "open"
    assert one.in_flight == 0


def test_who_asks_for_a_pause_gets_it_and_is_not_down() -> None:
    one = breaker()
    for _ in range(10):
        one.failed(one.started(), now=Millis(0), at=Millis(0), retry_after=Millis(5000), counts=False)
    assert one.is_closed
    assert one.wait(Millis(0)) == 5000
    assert may_start(one, Millis(5000))
    open_it(one, now=5000)
    now = one.state.until
    one.failed(one.started(), now=now, at=now, retry_after=Millis(3000), counts=False)
    assert one.state.state == "open"
    assert one.wait(now) == 3000


def test_it_goes_on_after_a_restart_where_it_was() -> None:
    one = breaker()
    open_it(one)
    again = breaker(one.state)
    assert again.wait(Millis(0)) == one.state.until
    half = breaker(Breaker("half_open", 3, Millis(0), Millis(0)))  # killed with a probe on its way
    assert may_start(half, Millis(1))
    half.started()
    assert not may_start(half, Millis(1))


@given(st.integers(1, 60))
def test_pauses_double_up_to_the_longest(probes: int) -> None:
    one = breaker()
    open_it(one)
    now = one.state.until
    for n in range(1, probes + 1):
        one.failed(one.started(), now=now, at=now)
        ceiling = min(8000, 1000 * 2**n)
        assert ceiling / 2 <= one.state.until - now <= ceiling
        now = one.state.until


class AnyOrder(RuleBasedStateMachine):
    """Whatever comes in whatever order: never too many at once, never stuck."""

    def __init__(self) -> None:
        super().__init__()
        self.one = breaker()
        self.now = 0
        self.flying: list[int] = []

    @precondition(lambda self: may_start(self.one, self.now))
    @rule()
    def start(self) -> None:
        self.flying.append(self.one.started())

    @precondition(lambda self: self.flying)
    @rule(index=st.integers(0, 100), outcome=st.sampled_from(["taken", "failed", "later", "none"]))
    def end(self, index: int, outcome: str) -> None:
        generation = self.flying.pop(index % len(self.flying))
        if outcome == "taken":
            self.one.succeeded(generation, at=Millis(self.now))
        elif outcome == "none":
            self.one.not_attempted()
        else:
            later = outcome == "later"
            self.one.failed(
                generation,
                now=Millis(self.now),
                at=Millis(self.now),
                retry_after=Millis(500 if later else 0),
                counts=not later,
            )

    @rule(millis=st.integers(1, 10_000))
    def wait(self, millis: int) -> None:
        self.now += millis

    @invariant()
    def width_is_kept(self) -> None:
        assert self.one.in_flight == len(self.flying) <= 4

    @invariant()
    def never_stuck(self) -> None:
        if not self.flying:
            assert may_start(self.one, Millis(self.now + self.one.wait(Millis(self.now))))


TestAnyOrder = AnyOrder.TestCase


@given(st.floats(0.1, 500), st.lists(st.integers(0, 3000), min_size=2, max_size=60))
def test_a_rate_is_kept_in_every_stretch_of_time(per_second: float, pauses: list[int]) -> None:
    rate, now, sent = SendRate(per_second), 0, []
    for pause in pauses:
        now += pause
        now += rate.wait(Millis(now))
        assert rate.wait(Millis(now)) == 0
        rate.take(Millis(now))
        sent.append(now)
    for i, start in enumerate(sent):
        for j in range(i + 1, len(sent)):
            assert j - i <= (sent[j] - start) / 1000 * per_second + 1e-6 + per_second / 1000


def test_no_rate_never_waits() -> None:
    rate = SendRate(None)
    for _ in range(1000):
        assert rate.wait(Millis(0)) == 0
        rate.take(Millis(0))
