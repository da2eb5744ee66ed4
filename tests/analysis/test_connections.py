"""Connections: sums, quantiles, and how long data lay ready."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.connections import connections, longest_stretches, socket_totals
from analysis.load import load
from tests.analysis.synthetic import make_trace


def arrivals(*rows: tuple[int, int, int]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["socket", "ready_ns", "copied_ns"])


def test_deliveries_that_overlap_are_one_stretch() -> None:
    found = longest_stretches(
        arrivals((7, 10, 30), (7, 20, 50), (7, 25, 28), (7, 50, 55), (7, 60, 65), (8, 0, 9))
    )
    assert found.to_dict() == {7: 45, 8: 9}


def test_a_stretch_of_one_socket_does_not_reach_into_another() -> None:
    assert longest_stretches(arrivals((1, 0, 1000), (2, 5, 6))).to_dict() == {1: 1000, 2: 1}


def test_the_sums_over_connections_are_those_of_the_trace(tmp_path: Path) -> None:
    trace = load(make_trace(tmp_path / "trace", "epoll"))
    table = connections(trace)
    assert table["bytes"].sum() == trace.calls["bytes"].sum()
    assert table["deliveries"].sum() == trace.deliveries["socket"].notna().sum()
    assert table["copy_ns"].sum() == trace.calls["copy_ns"].sum()
    longest = table["longest_ready_ns"].dropna()
    assert longest.is_monotonic_decreasing
    assert (table["longest_ready_ns"] >= table["delivery_max_ns"]).all()


def test_what_copying_took_is_unknown_where_no_probe_saw_it() -> None:
    """A unix stream seen by tracepoints: only of its end, which brings nothing, it is known."""
    columns = {"socket": [7, 7, 8], "pid": [1, 1, 1], "bytes": [9, 0, 9], "copy_ns": [None, 0, 5]}
    phases = dict.fromkeys(("sleep_ns", "runq_ns", "spin_ns", "check_ns"), 0)
    calls = pd.DataFrame(columns, dtype="Int64").assign(**phases)
    assert socket_totals(calls)["copy_ns"].fillna(-1).to_dict() == {7: -1, 8: 5}
