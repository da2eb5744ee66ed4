"""Puts the records of a spool in the order of time, in bounded memory.

Records are spooled when their call ends, so they are almost in the order of ``ts``, except for
calls that lasted long. Those that are late by more than a whole chunk are *stragglers*: a thread
has at most one per chunk, so they are few, and a first pass keeps their positions. All others are
at most two chunks late, so a second pass that holds back two chunks can merge everything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from tracer.ring import Records

__all__ = ("CHUNK", "TimeOrder", "take")

CHUNK = 1 << 16
"""Records per chunk: 9 MB, which the allocator reuses; chunks of 36 MB take a fifth longer."""


class TimeOrder:
    """The records of some kinds, in the order of ``ts``; equal times keep the order of the spool.

    First ``survey`` every chunk, in order; then ``batches``.
    """

    def __init__(self, records: Records, kinds: Collection[int], chunk: int = CHUNK) -> None:
        self._records = records
        self._kinds = np.array(sorted(kinds), np.uint8)
        self._chunk = chunk
        self._horizons: list[int] = []
        """The latest ``ts`` up to the end of each chunk."""
        self._late: list[NDArray[np.int64]] = []
        """The positions of the stragglers of each chunk."""

    def starts(self) -> range:
        """Return where each chunk begins."""
        return range(0, len(self._records), self._chunk)

    def survey(self, start: int) -> Records:
        """Look at the times of the chunk at ``start``; return its records of the other kinds."""
        positions, ts = self._chosen(start)
        late = ts < self._not_before(len(self._horizons))
        self._late.append(positions[late])
        latest = int(ts.max()) if len(ts) else 0
        self._horizons.append(max(latest, self._horizons[-1] if self._horizons else 0))
        chunk = self._records[start : start + self._chunk]
        other = np.ones(len(chunk), bool)
        other[positions - start] = False
        return take(chunk, np.flatnonzero(other))

    def batches(self) -> Iterator[Records]:
        """Yield the records in order of time, a batch per chunk."""
        late = np.concatenate(self._late) if self._late else np.empty(0, np.int64)
        late = late[np.argsort(self._records["ts"][late], kind="stable")]
        late_ts = self._records["ts"][late]
        late_done = 0
        held, held_ts = late[:0], late_ts[:0]
        for number, start in enumerate(self.starts()):
            positions, ts = self._chosen(start)
            on_time = ts >= self._not_before(number)
            last = number == len(self._horizons) - 1
            # No record of a later chunk, unless it is a straggler, is older than this.
            limit = np.uint64(2**64 - 1 if last else self._not_before(number + 1))
            late_end = int(np.searchsorted(late_ts, limit))
            now = slice(late_done, late_end)
            late_done = late_end
            held = np.concatenate([held, positions[on_time], late[now]])
            held_ts = np.concatenate([held_ts, ts[on_time], late_ts[now]])
            order = np.argsort(held_ts, kind="stable")
            held, held_ts = held[order], held_ts[order]
            done = len(held) if last else int(np.searchsorted(held_ts, limit))
            yield take(self._records, held[:done])
            held, held_ts = held[done:], held_ts[done:]

    def _chosen(self, start: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        chunk = self._records[start : start + self._chunk]
        chosen = np.flatnonzero(np.isin(chunk["kind"], self._kinds))
        return chosen + start, chunk["ts"][chosen]

    def _not_before(self, number: int) -> np.uint64:
        """Return the time before which a record of this chunk is a straggler."""
        return np.uint64(self._horizons[number - 2] if number >= 2 else 0)


def take(records: Records, positions: NDArray[np.int64]) -> Records:
    """Gather records by position; as opaque bytes, which numpy moves faster than fields."""
    opaque = np.asarray(records).view(f"V{records.dtype.itemsize}")
    return opaque[positions].view(records.dtype)
