"""The order of time of the records of a spool."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.layout import CALL
from tracer.order import TimeOrder
from tracer.ring import Records


def in_order(records: Records, kinds: set[int], chunk: int) -> tuple[Records, list[Records]]:
    """Return the ordered records, and those of other kinds chunk by chunk."""
    order = TimeOrder(records, kinds, chunk)
    others = [order.survey(start) for start in order.starts()]
    return np.concatenate([records[:0], *order.batches()]), others


def records_at(times: list[int], kinds: list[int] | int = 1) -> Records:
    records = np.zeros(len(times), CALL)
    records["ts"] = times
    records["kind"] = kinds
    records["pid"] = np.arange(len(times))
    return records


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 4)), max_size=120), st.integers(1, 20))
def test_any_records_are_ordered_like_a_stable_sort(
    rows: list[tuple[int, int]], chunk: int
) -> None:
    records = records_at([ts for ts, _ in rows], [kind for _, kind in rows])
    chosen = records[np.isin(records["kind"], (1, 2))]
    expected = chosen[np.argsort(chosen["ts"], kind="stable")]
    ordered, others = in_order(records, {1, 2}, chunk)
    assert ordered.tobytes() == expected.tobytes()
    rest = np.concatenate([records[:0], *others])
    assert rest.tobytes() == records[~np.isin(records["kind"], (1, 2))].tobytes()


def test_a_call_that_lasted_the_whole_trace_comes_first() -> None:
    records = records_at([*range(10, 1000), 5])
    ordered, _ = in_order(records, {1}, 16)
    assert ordered["ts"].tolist() == [5, *range(10, 1000)]


def test_batches_stay_small_when_some_calls_are_very_late() -> None:
    times = [ts if ts % 50 else ts // 2 for ts in range(10_000, 30_000)]
    order = TimeOrder(records_at(times), {1}, 100)
    for start in order.starts():
        order.survey(start)
    batches = list(order.batches())
    assert max(map(len, batches)) <= 600
    assert np.concatenate(batches)["ts"].tolist() == sorted(times)
