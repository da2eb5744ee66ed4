"""What a piece of data waited for, from its arrival to the end of its copy.

The interval is laid over the timeline of the thread that took the data:

- ``nobody_asked``: the thread was outside the receive path with no data to serve, and had not been
  told of this data;
- ``busy``: it was in a call on another socket, or between calls after it had taken data: serving
  that, or whatever else it does before it asks again (a nap is not told apart: only its calls on
  the receive path are seen), or on the way from being told to asking;
- ``asleep``, ``runq``, ``copy``: it was in a call that waits for this data or takes it, and in that
  phase;
- ``call``: the rest of such calls; for a kernel thread that polls (SQPOLL), which never stops
  asking, all time between its calls.

The six add up to the interval exactly. Where the interval begins or ends inside a call, the call's
phases are known, but not their place in it: the call is taken to end with the copy, before it the
wait for a CPU, before that the work after waking, before that the sleep.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.errors import TraceError
from analysis.load import Trace
from analysis.schema import CALLS, DELIVERIES
from analysis.thread_calls import CALL_COLUMNS, NO_SOCKET, ThreadCalls, split_by_thread, to_int
from analysis.timeline import Intervals, covered

__all__ = ("REASONS", "delivery_waits")

Ints = npt.NDArray[np.int64]

REASONS = ("nobody_asked", "busy", "asleep", "runq", "call", "copy")
"""What data can wait for; the parts of its delivery."""

_SPLIT = ("sleep", "runq", "copy")
_WORK = ("check", "overhead", "spin")


@dataclass(frozen=True)
class _Chain:
    """Some calls of a thread in order of a key, with running sums of their phases."""

    keys: Ints
    intervals: Intervals
    sums: dict[str, Ints]

    @classmethod
    def of(cls, calls: ThreadCalls, chosen: Ints, keys: Ints, shift: Ints) -> _Chain:
        starts, ends = calls.starts[chosen] + shift, calls.ends[chosen] + shift
        sums = {
            phase: np.concatenate([[0], np.cumsum(calls.phases[phase][chosen])]) for phase in _SPLIT
        }
        return cls(keys, Intervals.of(starts, ends), sums)

    def begun(self, phase: str, begin: Ints, end: Ints) -> Ints:
        """Return the sum of a phase over the calls that begin in [begin, end)."""
        low = np.searchsorted(self.keys, begin, side="left")
        high = np.searchsorted(self.keys, end, side="left")
        return self.sums[phase][high] - self.sums[phase][low]


def _many(calls: ThreadCalls) -> _Chain:
    chosen = np.flatnonzero(calls.sockets == NO_SOCKET)
    return _Chain.of(calls, chosen, calls.starts[chosen], np.zeros(len(chosen), dtype=np.int64))


def _tail(calls: ThreadCalls, index: Ints, length: Ints) -> dict[str, Ints]:
    """Split the last ``length`` ns of a call: copy, then runq, then work, the rest asleep."""
    copy = np.minimum(calls.phases["copy"][index], length)
    runq = np.minimum(calls.phases["runq"][index], length - copy)
    work = np.minimum(sum(calls.phases[phase][index] for phase in _WORK), length - copy - runq)
    sleep = np.minimum(calls.phases["sleep"][index], length - copy - runq - work)
    return {"sleep": sleep, "runq": runq, "copy": copy}


def _head(calls: ThreadCalls, index: Ints, length: Ints) -> dict[str, Ints]:
    """Split the first ``length`` ns of a call that end with its copy."""
    copy = np.minimum(calls.phases["copy"][index], length)
    runq = np.minimum(calls.phases["runq"][index], length - copy)
    sleep = np.minimum(calls.phases["sleep"][index], length - copy - runq)
    return {"sleep": sleep, "runq": runq, "copy": copy}


def _waits(
    calls: ThreadCalls, ready: Ints, noticed: Ints, copied: Ints, sockets: Ints
) -> dict[str, Ints]:
    everything = Intervals.of(calls.starts, calls.ends)
    in_calls = covered(everything, ready, copied)
    outside = copied - ready - in_calls
    busy_between = polled = np.zeros_like(outside)
    if calls.polls:
        polled = outside
    else:
        busy_between = _busy_between(calls, everything, ready, noticed, copied)

    many = _many(calls)
    own, shift_of = _own(calls, ready, copied, sockets)
    shifted_ready, shifted_copied = ready + shift_of, copied + shift_of
    asked = covered(many.intervals, ready, copied)
    asked += covered(own.intervals, shifted_ready, shifted_copied)

    split = {
        phase: many.begun(phase, ready, copied) + own.begun(phase, shifted_ready, shifted_copied)
        for phase in _SPLIT
    }
    first, last = everything.at(ready), everything.at(copied - 1)
    for phase, change in _ends(calls, first, last, ready, copied, sockets).items():
        split[phase] = np.maximum(split[phase] + change, 0)
    left = asked.copy()
    for phase in ("copy", "runq", "sleep"):
        split[phase] = np.minimum(split[phase], left)
        left = left - split[phase]
    return {
        "nobody_asked": outside - busy_between - polled,
        "busy": in_calls - asked + busy_between,
        "asleep": split["sleep"],
        "runq": split["runq"],
        "call": left + polled,
        "copy": split["copy"],
    }


def _busy_between(
    calls: ThreadCalls, everything: Intervals, ready: Ints, noticed: Ints, copied: Ints
) -> Ints:
    """Return how much of the time between calls went to serving other data, or to taking this."""
    serving = Intervals.of(
        everything.ends[:-1][calls.received[:-1]], everything.starts[1:][calls.received[:-1]]
    )
    # once told, the thread is on its way, whatever it did before
    told = copied - noticed - covered(everything, noticed, copied)
    return covered(serving, ready, copied) + told - covered(serving, noticed, copied)


def _own(calls: ThreadCalls, ready: Ints, copied: Ints, sockets: Ints) -> tuple[_Chain, Ints]:
    """Chain the calls on single sockets, each socket moved to a stretch of time of its own."""
    origin = min(int(calls.starts[0]), int(ready.min(initial=calls.starts[0])))
    until = max(int(calls.ends.max()), int(copied.max(initial=0)))
    span = until - origin + 1
    known = np.unique(np.concatenate([calls.sockets, sockets]))
    if len(known) * span > np.iinfo(np.int64).max:
        raise TraceError(
            f"thread {calls.tid}: {len(known)} sockets in {span / 1e9:.0f} s are too many to follow"
        )
    chosen = np.flatnonzero(calls.sockets != NO_SOCKET)
    shift = np.searchsorted(known, calls.sockets[chosen]) * span - origin
    keys = calls.starts[chosen] + shift
    order = np.argsort(keys, kind="stable")
    chain = _Chain.of(calls, chosen[order], keys[order], shift[order])
    return chain, np.searchsorted(known, sockets) * span - origin


def _ends(
    calls: ThreadCalls, first: Ints, last: Ints, ready: Ints, copied: Ints, sockets: Ints
) -> dict[str, Ints]:
    """Return what the calls cut by the ends of an interval add to the sums of whole calls."""
    change = {phase: np.zeros(len(ready), dtype=np.int64) for phase in _SPLIT}
    for index, begins_before in ((first, True), (last, False)):
        at = np.maximum(index, 0)
        asks = (calls.sockets[at] == NO_SOCKET) | (calls.sockets[at] == sockets)
        before = calls.starts[at] < ready
        chosen = (index >= 0) & asks & (before == begins_before)
        own = at[chosen]
        if begins_before:
            end = np.minimum(calls.ends[own], copied[chosen])
            parts = _tail(calls, own, end - ready[chosen])
        else:
            parts = _head(calls, own, copied[chosen] - calls.starts[own])
        for phase in _SPLIT:
            whole = 0 if begins_before else calls.phases[phase][own]
            change[phase][chosen] += parts[phase] - whole
    return change


def delivery_waits(trace: Trace) -> pd.DataFrame:
    """Return one row per delivery whose times are known: what it waited for.

    Columns: ``socket``, ``tid``, ``bytes``, ``ready_ns``, ``noticed_ns``, ``copied_ns``,
    ``total_ns`` = copied - ready, ``unnoticed_ns`` = noticed - ready, and ``<reason>_ns`` for each
    of ``REASONS``, which add up to ``total_ns``. Raises TraceError on a damaged file.
    """
    columns = ["socket", "tid", "bytes", "ready_ns", "noticed_ns", "copied_ns"]
    arrivals = trace.read(DELIVERIES, columns)
    known = arrivals[["ready_ns", "copied_ns"]].notna().all(axis="columns")
    arrivals = arrivals[known & (arrivals["ready_ns"] <= arrivals["copied_ns"])]
    arrivals = arrivals.sort_values("tid", kind="stable", ignore_index=True)
    arrivals["total_ns"] = arrivals["copied_ns"] - arrivals["ready_ns"]
    arrivals["unnoticed_ns"] = arrivals["noticed_ns"] - arrivals["ready_ns"]

    ready, copied = to_int(arrivals["ready_ns"]), to_int(arrivals["copied_ns"])
    noticed = to_int(arrivals["noticed_ns"].fillna(arrivals["copied_ns"]))
    noticed = np.clip(noticed, ready, copied)
    sockets, tids = to_int(arrivals["socket"], NO_SOCKET - 1), to_int(arrivals["tid"])
    reasons = {reason: np.zeros(len(arrivals), dtype=np.int64) for reason in REASONS}
    reasons["nobody_asked"][:] = copied - ready
    calls = trace.read(CALLS, list(CALL_COLUMNS))
    for thread in split_by_thread(calls):
        begin, end = np.searchsorted(tids, [thread.tid, thread.tid + 1])
        own = slice(int(begin), int(end))
        if begin == end:
            continue
        waits = _waits(thread, ready[own], noticed[own], copied[own], sockets[own])
        for reason, column in waits.items():
            reasons[reason][own] = column
    for reason in REASONS:
        arrivals[f"{reason}_ns"] = pd.array(reasons[reason], dtype="Int64")
    if len(calls) and calls["copy_ns"].isna().all():
        arrivals["call_ns"] += arrivals["copy_ns"]
        arrivals["copy_ns"] = pd.array([pd.NA] * len(arrivals), dtype="Int64")
    return arrivals
