"""The best pairing is found in a small table; here it is held against one that looks at everything."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.events.pairing import DistinctReport, best_pairing
from reconciler.events.sighting import Precision
from reconciler.events.times import MINUTE, Millis
from tests.support.effort import tries

Worth = tuple[int, int]

reports = st.builds(
    lambda time, precision, sha: DistinctReport(Millis(time * MINUTE), precision, [], sha),
    st.integers(0, 40) | st.integers(0, 3000),
    st.sampled_from(
        [Precision.GITLAB_TIME, Precision.RECEIVED_TIME, Precision.RECEIVED_UNVERIFIED, Precision.UNIQUE_ID]
    ),
    st.sampled_from([None, None, "x", "y"]),
)
several = st.lists(reports, max_size=12).map(lambda some: sorted(some, key=lambda report: report.time))


def distance(left: DistinctReport, right: DistinctReport) -> int | None:
    if None not in (left.webhook_sha, right.webhook_sha) and left.webhook_sha != right.webhook_sha:
        return None
    if Precision.UNIQUE_ID in (left.precision, right.precision):
        return 0
    apart = abs(left.time - right.time)
    return apart if apart <= max(left.precision.tolerance, right.precision.tolerance) else None


def best_worth(left: list[DistinctReport], right: list[DistinctReport]) -> Worth:
    """(pairs, -total distance) of the best: every pairing that does not cross is tried."""
    table = [[(0, 0)] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i in reversed(range(len(left))):
        for j in reversed(range(len(right))):
            table[i][j] = max(table[i + 1][j], table[i][j + 1])
            apart = distance(left[i], right[j])
            if apart is not None:
                pairs, total = table[i + 1][j + 1]
                table[i][j] = max(table[i][j], (pairs + 1, total - apart))
    return table[0][0]


@settings(deadline=None, max_examples=tries(200))
@given(left=several, right=several)
def test_no_pairing_has_more_pairs_or_a_smaller_distance(
    left: list[DistinctReport], right: list[DistinctReport]
) -> None:
    pairs = best_pairing(left, right)
    apart = [distance(left[i], right[j]) for i, j in pairs]
    assert pairs == sorted(pairs)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert (len(pairs), -sum(one for one in apart if one is not None)) == best_worth(left, right)
    assert None not in apart
