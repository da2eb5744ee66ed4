"""One real request of a trace, call by call, the way Stevens draws an I/O model (UNP 1, 6.2)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.load import Trace
from analysis.phase_slices import PHASE_ORDER
from analysis.schema import CALLS, DELIVERIES, PHASE_COLUMNS
from analysis.thread_calls import to_int

__all__ = ("RequestSequence", "Step", "typical_request")

Ints = npt.NDArray[np.int64]

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


def typical_request(trace: Trace) -> RequestSequence | None:
    """Return a request of the trace that is neither quick nor slow, or None if there is none.

    It begins with the first call after the thread had last taken data, and ends with the call that
    copied this data. Of the requests that were waited for, the way the book draws them, it is the
    one whose delivery took the median time: asked for before their data came, by a call that slept
    or by one before the call that took it. Of all requests, if none was.
    """
    columns = ["tid", "ready_ns", "noticed_ns", "copied_ns", "bytes"]
    data = trace.read(DELIVERIES, columns).dropna(subset=["ready_ns", "copied_ns"])
    wanted = ["ts_ns", "duration_ns", "tid", "context", "call", "result", "bytes"]
    calls = trace.read(CALLS, [*wanted, *PHASE_COLUMNS])
    if data.empty or calls.empty:
        return None
    order = [to_int(calls[name]) for name in ("duration_ns", "ts_ns", "tid")]
    calls = calls.iloc[np.lexsort(order)]
    first, last = _spans(calls, data)
    known = first <= last
    asked = known & (to_int(calls["ts_ns"])[first] <= to_int(data["ready_ns"]))
    waited = asked & ((first < last) | (to_int(calls["sleep_ns"])[last] > 0))
    chosen = np.flatnonzero(next((kind for kind in (waited, asked) if kind.any()), known))
    if not len(chosen):
        return None
    took = to_int(data["copied_ns"] - data["ready_ns"])[chosen]
    index = int(chosen[np.argsort(took, kind="stable")[len(took) // 2]])
    delivery = data.iloc[index]
    own = calls.iloc[first[index] : last[index] + 1]
    noticed = delivery["noticed_ns"]
    return RequestSequence(
        model=trace.model or trace.name,
        tid=int(delivery["tid"]),
        steps=_fold([_step(row) for row in own.to_dict("records")]),
        ready_ns=int(delivery["ready_ns"]),
        noticed_ns=None if pd.isna(noticed) else int(noticed),
        copied_ns=int(delivery["copied_ns"]),
        bytes=0 if pd.isna(delivery["bytes"]) else int(delivery["bytes"]),
    )


def _spans(calls: pd.DataFrame, data: pd.DataFrame) -> tuple[Ints, Ints]:
    """Return the positions of the first and the last call of each delivery, first > last if none.

    ``calls`` are sorted by thread and time.
    """
    tids, begins = to_int(calls["tid"]), to_int(calls["ts_ns"])
    taken, copied = to_int(data["tid"]), to_int(data["copied_ns"])
    origin = min(int(begins.min()), int(copied.min()))
    span = max(int(begins.max()), int(copied.max())) - origin + 1
    threads = np.unique(tids)
    keys = np.searchsorted(threads, tids) * span + begins - origin
    wanted = np.searchsorted(threads, taken) * span + copied - origin
    last = np.searchsorted(keys, wanted, side="left") - 1
    missing = (last < 0) | (tids[np.maximum(last, 0)] != taken)
    # the call after the last one before it that took data, or the first of its thread
    position = np.arange(len(tids))
    fresh = np.concatenate([[True], tids[1:] != tids[:-1]])
    took = to_int(calls["bytes"]) > 0
    after_take = np.concatenate([[False], took[:-1]])
    start = np.maximum.accumulate(np.where(fresh | after_take, position, 0))
    return np.where(missing, 0, start[last]), np.where(missing, -1, last)


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
