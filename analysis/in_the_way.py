"""Whose data a thread was serving while other data waited."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.thread_calls import NO_SOCKET, ThreadCalls, split_by_thread, to_int

__all__ = ("InTheWay", "in_the_way")

Ints = npt.NDArray[np.int64]


class InTheWay(NamedTuple):
    """The socket whose data was served most of the time."""

    socket: int
    share: float
    """Of all the time that was waited."""
    serving_ns: float
    """How long the thread served it at a time, at the median."""


def in_the_way(calls: pd.DataFrame, waited: pd.DataFrame) -> InTheWay | None:
    """Return what was served most while deliveries waited; None if nothing was.

    ``calls`` has the columns that ``split_by_thread`` takes, ``waited`` has ``tid``, ``ready_ns``
    and ``copied_ns``. Data is served from the end of the receive that took it until its thread
    takes other data, or waits for any.
    """
    tids = to_int(waited["tid"])
    ready, copied = to_int(waited["ready_ns"]), to_int(waited["copied_ns"])
    served: dict[int, int] = {}
    lengths: dict[int, list[Ints]] = {}
    for thread in split_by_thread(calls[calls["tid"].isin(set(tids.tolist()))]):
        begins, ends, sockets = _stretches(thread)
        for socket in np.unique(sockets).tolist():
            lengths.setdefault(socket, []).append((ends - begins)[sockets == socket])
        own = tids == thread.tid
        for since, until in zip(ready[own].tolist(), copied[own].tolist(), strict=True):
            met = slice(
                int(np.searchsorted(ends, since, side="right")),
                int(np.searchsorted(begins, until, side="left")),
            )
            shared = np.minimum(ends[met], until) - np.maximum(begins[met], since)
            for socket, length in zip(sockets[met].tolist(), shared.tolist(), strict=True):
                served[socket] = served.get(socket, 0) + length
    total = int((copied - ready).sum())
    if not served or not total:
        return None
    socket = max(served, key=lambda one: served[one])
    return InTheWay(
        socket, served[socket] / total, float(np.median(np.concatenate(lengths[socket])))
    )


def _stretches(thread: ThreadCalls) -> tuple[Ints, Ints, Ints]:
    """Return when a thread served which socket: begins, ends, sockets, in order of time."""
    marks = np.flatnonzero(thread.received | (thread.sockets == NO_SOCKET))
    took = marks[:-1][thread.received[marks[:-1]]]
    after = marks[1:][thread.received[marks[:-1]]]
    return thread.ends[took], thread.starts[after], thread.sockets[took]
