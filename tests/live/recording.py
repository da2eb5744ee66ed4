"""A recording made inside the test: targets in, the trace as data frames out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.load import Trace, load
from probes.program import Program
from tests.live.target import Target
from tracer.session import Session

__all__ = ("PHASES", "assert_closed", "is_attached", "record", "recording", "total")

PHASES = ("sleep_ns", "runq_ns", "spin_ns", "check_ns", "copy_ns", "overhead_ns")


@contextmanager
def recording(program: Program, path: Path) -> Iterator[Session]:
    """Yield a session; at the end its trace is in ``path``."""
    with Session(program, path) as session:
        yield session
        session.save()


def record(
    program: Program,
    path: Path,
    function: Callable[[], Any],
    beside: Callable[[Target], Any] = lambda target: None,
) -> tuple[Trace, Any]:
    """Trace a process that runs ``function`` to its end; return the trace and what it returned.

    ``beside`` is called while it runs: it is the other end of the conversation.
    """
    with Target(function) as target:
        with recording(program, path) as session:
            session.follow([target.pid])
            target.go()
            beside(target)
            result = target.result()
        return load(path), result


def is_attached(trace: Trace, symbol: str) -> bool:
    """Say whether the trace was made with this probe."""
    (state,) = [probe for probe in trace.meta["probes"] if probe["name"] == symbol]
    return state["attached"] is not None


def total(column: pd.Series[Any]) -> int:
    """Return the sum of what is known."""
    return int(column.dropna().sum())


def assert_closed(trace: Trace) -> None:
    """Check that every sum of the trace comes out, to the nanosecond."""
    calls, threads = trace.calls, trace.threads
    assert trace.lost == 0
    assert trace.emitted == trace.meta["recorded"]["total"]
    assert trace.meta["unclosed"] == 0
    assert (calls[list(PHASES)].fillna(0) >= 0).all().all()
    assert (calls[list(PHASES)].fillna(0).sum(axis=1) == calls["duration_ns"]).all()
    parts = ["user_ns", *PHASES, "other_calls_ns", "off_cpu_elsewhere_ns"]
    assert (threads[parts].fillna(0).sum(axis=1) == threads["wall_ns"]).all()
    _assert_ledgers(calls, threads, (*PHASES, "bytes"))


def _assert_ledgers(calls: pd.DataFrame, threads: pd.DataFrame, columns: Sequence[str]) -> None:
    """Check that each thread's ledger is the sum of its calls."""
    for thread in threads.itertuples():
        rows = calls[calls["tid"] == thread.tid]
        assert len(rows) == thread.calls
        for column in columns:
            assert total(rows[column]) == getattr(thread, column), (thread.tid, column)
