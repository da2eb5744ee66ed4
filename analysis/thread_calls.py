"""The calls of every thread as numpy columns, sorted by thread and time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.schema import PHASE_COLUMNS, PHASES

__all__ = ("CALL_COLUMNS", "NO_SOCKET", "ThreadCalls", "split_by_thread", "to_int")

Ints = npt.NDArray[np.int64]

NO_SOCKET = -1
"""The socket of a call that asks about many descriptors, or none."""

CALL_COLUMNS = ("ts_ns", "duration_ns", "tid", "context", "socket", "bytes", *PHASE_COLUMNS)
"""The columns of ``calls.csv`` that ``split_by_thread`` takes."""

POLLER = "iou-sqp"
"""The context of a kernel thread that polls."""


def to_int(column: pd.Series, unknown: int = 0) -> Ints:
    """Return a nullable column as int64, unknown values replaced."""
    return column.to_numpy(dtype=np.int64, na_value=unknown)


@dataclass(frozen=True)
class ThreadCalls:
    """One thread's calls in order of time; ``phases`` maps a phase to its column, in ns.

    ``polls``: it is a kernel thread that asks for data all the time (SQPOLL), not only in calls.
    """

    tid: int
    starts: Ints
    ends: Ints
    sockets: Ints
    received: npt.NDArray[np.bool_]
    phases: dict[str, Ints]
    polls: bool


def split_by_thread(calls: pd.DataFrame) -> Iterator[ThreadCalls]:
    """Yield the calls of each thread; an unknown phase counts as nothing."""
    tids, starts = to_int(calls["tid"]), to_int(calls["ts_ns"])
    lengths, sizes = to_int(calls["duration_ns"]), to_int(calls["bytes"])
    sockets = to_int(calls["socket"], NO_SOCKET)
    # where two calls begin at one instant, the one without a length comes first
    order = np.lexsort((sockets, sizes, lengths, starts, tids))
    tids, starts, sockets = tids[order], starts[order], sockets[order]
    ends = starts + lengths[order]
    received = sizes[order] > 0
    polls = (calls["context"] == POLLER).to_numpy(dtype=bool)[order]
    phases = {phase: to_int(calls[f"{phase}_ns"])[order] for phase in PHASES}
    edges = [0, *(np.flatnonzero(np.diff(tids)) + 1).tolist(), len(tids)]
    for begin, end in itertools.pairwise(edges):
        if begin == end:
            continue
        own = slice(begin, end)
        yield ThreadCalls(
            int(tids[begin]),
            starts[own],
            ends[own],
            sockets[own],
            received[own],
            {phase: column[own] for phase, column in phases.items()},
            bool(polls[own].all()),
        )
