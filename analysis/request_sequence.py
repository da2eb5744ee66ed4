"""One real request of a trace, call by call, the way Stevens draws an I/O model (UNP 1, 6.2)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.load import Trace
from analysis.phase_slices import PHASE_ORDER
from analysis.schema import CALLS, DELIVERIES, PHASE_COLUMNS
from analysis.thread_calls import to_int

__all__ = ("RequestSequence", "Step", "typical_request")

MAX_STEPS = 5
"""Calls drawn one by one; of more, the middle is put together and counted."""


@dataclass(frozen=True)
class Step:
    """One call, or ``count`` in a row put together; times in ns, phases without the empty ones."""

    call: str
    context: str
    begin_ns: int
    end_ns: int
    phases: dict[str, int]
    result: int | None
    bytes: int
    count: int = 1


@dataclass(frozen=True)
class RequestSequence:
    """The calls that wait for a piece of data and take it; ``ready_ns`` is when it arrived."""

    model: str
    tid: int
    steps: tuple[Step, ...]
    ready_ns: int
    noticed_ns: int | None
    copied_ns: int
    bytes: int


def _typical(data: pd.DataFrame) -> pd.Series | None:
    """Return the delivery whose time is the median, so that a figure shows no freak."""
    known = data.dropna(subset=["ready_ns", "copied_ns"])
    if known.empty:
        return None
    took = to_int(known["copied_ns"] - known["ready_ns"])
    middle = np.argsort(took, kind="stable")[len(took) // 2]
    return known.iloc[int(middle)]


def typical_request(trace: Trace) -> RequestSequence | None:
    """Return the request whose delivery took the median time, or None if no delivery is known.

    It begins with the first call after the thread had last taken data, and ends with the call that
    copied this data.
    """
    columns = ["socket", "tid", "ready_ns", "noticed_ns", "copied_ns", "bytes"]
    delivery = _typical(trace.read(DELIVERIES, columns))
    if delivery is None:
        return None
    wanted = ["ts_ns", "duration_ns", "tid", "context", "call", "socket", "result", "bytes"]
    calls = trace.read(CALLS, [*wanted, *PHASE_COLUMNS])
    own = calls[(calls["tid"] == delivery["tid"]).fillna(False)]
    own = own.sort_values("ts_ns", kind="stable", ignore_index=True)
    begins = to_int(own["ts_ns"])
    last = int(np.searchsorted(begins, int(delivery["copied_ns"]), side="left")) - 1
    if last < 0:
        return None
    took = to_int(own["bytes"]) > 0
    earlier = np.flatnonzero(took[:last])
    first = int(earlier[-1]) + 1 if len(earlier) else 0
    steps = [_step(row) for row in own.iloc[first : last + 1].to_dict("records")]
    noticed = delivery["noticed_ns"]
    return RequestSequence(
        model=trace.model or trace.name,
        tid=int(delivery["tid"]),
        steps=_fold(steps),
        ready_ns=int(delivery["ready_ns"]),
        noticed_ns=None if pd.isna(noticed) else int(noticed),
        copied_ns=int(delivery["copied_ns"]),
        bytes=0 if pd.isna(delivery["bytes"]) else int(delivery["bytes"]),
    )


def _step(row: Mapping[Hashable, Any]) -> Step:
    def number(name: str) -> int | None:
        value = row[name]
        return None if pd.isna(value) else int(value)

    begin = number("ts_ns") or 0
    phases = {phase: number(f"{phase}_ns") or 0 for phase in PHASE_ORDER}
    return Step(
        call=str(row["call"]),
        context=str(row["context"]),
        begin_ns=begin,
        end_ns=begin + (number("duration_ns") or 0),
        phases={phase: spent for phase, spent in phases.items() if spent},
        result=number("result"),
        bytes=number("bytes") or 0,
    )


def _fold(steps: list[Step]) -> tuple[Step, ...]:
    """Put the middle of a long sequence into one step per kind of call and result."""
    if len(steps) <= MAX_STEPS:
        return tuple(steps)
    first, *middle, before, last = steps
    phases: dict[str, int] = {}
    for step in middle:
        for phase, spent in step.phases.items():
            phases[phase] = phases.get(phase, 0) + spent
    folded = Step(
        call=middle[0].call if len({step.call for step in middle}) == 1 else "calls",
        context=middle[0].context,
        begin_ns=middle[0].begin_ns,
        end_ns=middle[-1].end_ns,
        phases=phases,
        result=middle[0].result if len({step.result for step in middle}) == 1 else None,
        bytes=0,
        count=len(middle),
    )
    return (first, folded, before, last)
