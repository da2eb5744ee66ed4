"""What a thread was serving while other data waited."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.in_the_way import in_the_way
from analysis.schema import PHASE_COLUMNS

MS = 1_000_000
SLOW, QUICK = 70, 71


def calls(*rows: tuple[int, int | None, int]) -> pd.DataFrame:
    """Return calls of 1000 ns each: when they begin, on which socket, bytes."""
    made = [
        {"ts_ns": at, "duration_ns": 1000, "tid": 5, "context": "process", "socket": socket,
         "bytes": size} | dict.fromkeys(PHASE_COLUMNS, 0)
        for at, socket, size in rows
    ]  # fmt: skip
    return pd.DataFrame(made).astype({"socket": "Int64", "bytes": "Int64"})


def waited(*rows: tuple[int, int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["ready_ns", "copied_ns"]).assign(tid=5)


def test_the_connection_that_is_served_longest_is_named_with_how_long_that_takes() -> None:
    """Each time the slow one is served for 4 ms; the drain to EAGAIN belongs to it."""
    rows: list[tuple[int, int | None, int]] = []
    for turn in range(5):
        at = turn * 10 * MS
        rows += [(at, None, 0), (at + 2000, SLOW, 60), (at + 4000, SLOW, 0)]
        rows += [(at + 4 * MS, QUICK, 60), (at + 5 * MS, None, 0)]
    found = in_the_way(calls(*rows), waited((2 * MS, 4 * MS + 1000), (11 * MS, 14 * MS + 1000)))
    assert found is not None
    assert found.socket == SLOW
    assert found.share == pytest.approx(1.0, abs=0.001)
    assert found.serving_ns == pytest.approx(4 * MS, rel=0.001)


def test_what_passes_in_a_waiting_call_or_before_any_data_was_taken_is_nobodys() -> None:
    rows = calls((0, None, 0), (3 * MS, None, 0), (5 * MS, QUICK, 60), (6 * MS, None, 0))
    assert in_the_way(rows, waited((1 * MS, 5 * MS))) is None


def test_other_threads_are_in_nobodys_way() -> None:
    rows = calls((0, SLOW, 60), (8 * MS, QUICK, 60), (9 * MS, None, 0)).assign(tid=6)
    assert in_the_way(rows, waited((1 * MS, 8 * MS))) is None
