"""What holds for every trace, on random ones."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.attribution import attribute
from analysis.delivery_waits import REASONS, delivery_waits
from analysis.ledger import open_calls, open_threads
from analysis.load import Trace, load
from analysis.summary import SHARES, summarise
from analysis.totals import GROUPS, SUMS, call_totals
from tests.analysis import synthetic

pytestmark = pytest.mark.timeout(300)
often = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

MAX_PHASE_NS = 10**9


@st.composite
def random_calls(draw: st.DrawFn) -> pd.DataFrame:
    """Return calls of up to three threads with any phases, sockets and unknown values."""
    count = draw(st.integers(1, 60))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([10, 10_000, MAX_PHASE_NS]))
    phases = pd.DataFrame(
        {name: generator.integers(0, scale, count) * generator.integers(0, 2, count)
         for name in synthetic.PHASES}
    )  # fmt: skip
    tid = synthetic.PID + generator.integers(0, draw(st.integers(1, 3)), count)
    waits = generator.random(count) < draw(st.floats(0, 1))
    size = generator.integers(0, 3, count) * 64
    known = pd.Series(~waits)
    phases["copy_ns"] += known & (size > 0)  # no copy takes no time
    calls = phases.assign(
        duration_ns=phases.sum(axis="columns"),
        cpu=0,
        pid=synthetic.PID,
        tid=tid,
        comm="random",
        context=generator.choice(["process", "iou-wrk"], count),
        call=np.where(waits, "epoll_wait", "recvfrom"),
        fd=5,
        socket=pd.Series(generator.integers(70, 74, count), dtype="Int64").where(known),
        nfds=None,
        ready=pd.Series(1, index=known.index, dtype="Int64").where(~known),
        result=1,
        bytes=pd.Series(size, dtype="Int64").where(known),
    )
    gaps = pd.Series(generator.integers(0, scale, count))
    busy = (calls["duration_ns"] + gaps).groupby(calls["tid"]).cumsum()
    calls["ts_ns"] = synthetic.START_NS + busy - calls["duration_ns"]
    return calls.sort_values("ts_ns", ignore_index=True)[[*synthetic.CALLS]]


def deliveries_of(calls: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return a delivery per receive with data that was ready at any time before its end."""
    generator = np.random.default_rng(seed)
    frame = synthetic.make_deliveries(calls)
    frame["ready_ns"] = frame["copied_ns"] - generator.integers(0, 10**9, len(frame))
    frame["noticed_ns"] = (frame["ready_ns"] + frame["copied_ns"]) // 2
    return frame


def write(calls: pd.DataFrame, deliveries: pd.DataFrame) -> Trace:
    """Write a trace into a fresh directory and load all of it."""
    threads = synthetic.make_threads(calls, None)
    meta = synthetic.make_meta(None, len(calls), len(deliveries), len(threads))
    with tempfile.TemporaryDirectory() as parent:
        trace = load(
            synthetic.write_trace(Path(parent) / "trace", calls, deliveries, threads, meta)
        )
        _ = trace.calls, trace.deliveries, trace.threads
    return trace


@often
@given(random_calls(), st.integers(0, 1000))
def test_shares_add_up_to_one_and_no_time_is_negative(calls: pd.DataFrame, seed: int) -> None:
    trace = write(calls, deliveries_of(calls, seed))
    assert open_calls(trace.calls).empty
    assert open_threads(trace.threads).empty
    row = summarise([trace]).iloc[0]
    if row["wall_ns"]:
        shares = row[list(SHARES)].astype(float)
        assert shares.sum() == pytest.approx(1)
        assert (shares.dropna() >= 0).all()


@often
@given(random_calls(), st.integers(0, 1000))
def test_what_deliveries_waited_for_adds_up_and_is_never_negative(
    calls: pd.DataFrame, seed: int
) -> None:
    waits = delivery_waits(write(calls, deliveries_of(calls, seed)))
    parts = waits[[f"{reason}_ns" for reason in REASONS]]
    assert (parts.sum(axis="columns") == waits["total_ns"]).all()
    assert (parts >= 0).all(axis=None)


@often
@given(random_calls(), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(
    calls: pd.DataFrame, seed: int, random: np.random.Generator
) -> None:
    deliveries = deliveries_of(calls, seed)
    first = write(calls, deliveries)
    shuffled = list(range(len(calls)))
    random.shuffle(shuffled)
    other = list(range(len(deliveries)))
    random.shuffle(other)
    second = write(calls.iloc[shuffled], deliveries.iloc[other])
    for by in GROUPS:
        pd.testing.assert_frame_equal(call_totals(first, by), call_totals(second, by))
    keys = ["tid", "socket", "ready_ns", "copied_ns"]
    pd.testing.assert_frame_equal(
        delivery_waits(first).sort_values(keys, ignore_index=True),
        delivery_waits(second).sort_values(keys, ignore_index=True),
    )


@often
@given(random_calls(), random_calls())
def test_two_traces_put_together_add_up(first: pd.DataFrame, second: pd.DataFrame) -> None:
    later = second.assign(
        ts_ns=second["ts_ns"] + int((first["ts_ns"] + first["duration_ns"]).max()),
        tid=second["tid"] + 10,
    )
    both = pd.concat([first, later], ignore_index=True)
    whole, *parts = (
        write(frame, synthetic.make_deliveries(frame)) for frame in (both, first, later)
    )
    for by in GROUPS:
        keys = list(GROUPS[by])
        stacked = pd.concat([call_totals(part, by) for part in parts], ignore_index=True)
        grouped = stacked.groupby(keys, dropna=False) if keys else stacked.groupby(lambda _: 0)
        summed = grouped[list(SUMS)].sum(min_count=1)
        total = call_totals(whole, by)
        expected = total.set_index(keys) if keys else total
        pd.testing.assert_frame_equal(summed, expected[list(SUMS)], check_dtype=False)


@often
@given(random_calls())
def test_attribution_by_any_group_adds_up_to_the_model(calls: pd.DataFrame) -> None:
    trace = write(calls, synthetic.make_deliveries(calls))
    model = attribute([trace])
    for by in GROUPS:
        grouped = attribute([trace], by=by)
        for phase in ("wait", "sleep", "copy", "overhead"):
            total = grouped[f"{phase}_share"].sum(min_count=1)
            assert total == pytest.approx(model[f"{phase}_share"][0], nan_ok=True)
