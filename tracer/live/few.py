"""The records that are few, as a rule: names, ledgers, addresses; bounded where they are many.

A server that has a thread, or a socket, for each request makes as many of them as of calls.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from probes.layout import CALL, KINDS, SOCKET, THREAD
from tracer.ring import Records

__all__ = ("Few",)

_MOST = 100_000
"""Records that are kept: 15 MB. With more of them, old ones are joined or given up."""
_FRESH = 60_000
"""The newest are left alone: of their sockets there may be no sums yet."""
_PROCESSES = 10_000
"""Ended processes whose main threads keep a ledger of their own."""

_HEAD = frozenset({"ts", "pid", "tid", "kind", "call", "context", "flags", "cpu", "role"})
_SUMS = [name for name in THREAD.names or () if name not in _HEAD | {"waker", "notifier"}]


class Few:
    """SOCKET, NAME and THREAD records."""

    def __init__(self) -> None:
        self._parts: list[Records] = []
        self.left_out = 0
        """Records that were given up, or joined to others."""

    def add(self, records: Records, sockets: Collection[int]) -> None:
        """Keep records; ``sockets`` are those whose addresses are needed."""
        self._parts.append(records.view(CALL))
        if sum(map(len, self._parts)) > _MOST:
            self._reduce(sockets)

    def records(self, kind: str | None = None) -> Records:
        """Return what is kept, or that of one kind."""
        whole = np.concatenate([np.empty(0, CALL), *self._parts])
        self._parts = [whole]
        return whole if kind is None else whole[whole["kind"] == KINDS[kind]]

    def _reduce(self, sockets: Collection[int]) -> None:
        from analysis.schema import OTHERS

        whole = self.records()
        old, fresh = whole[:-_FRESH], whole[-_FRESH:]
        ledgers = old["kind"] == KINDS["THREAD"]
        ended = ledgers & (old["tid"] != old["pid"])
        if (mains := np.flatnonzero(ledgers & ~ended))[_PROCESSES:].size:
            ended[mains[:-_PROCESSES]] = True
            old["pid"][mains[:-_PROCESSES]] = OTHERS
        gone = np.isin(old["tid"], old["tid"][ended & (old["tid"] != OTHERS)])
        names = (old["kind"] == KINDS["NAME"]) & ~gone & ~_repeated(old)
        addresses = old["kind"] == KINDS["SOCKET"]
        addresses &= np.isin(old.view(SOCKET)["socket"], list(sockets))
        kept = old[names | addresses | (ledgers & ~ended)]
        self._parts = [kept, _joined(old[ended].view(THREAD)), fresh]
        self.left_out += len(whole) - sum(map(len, self._parts))


def _repeated(records: Records) -> NDArray[np.bool_]:
    """Tell which records are followed by one of the same kind and thread."""
    keys = records["tid"].astype(np.int64) << 8 | records["kind"]
    _, last = np.unique(keys[::-1], return_index=True)
    repeated = np.ones(len(records), bool)
    repeated[len(records) - 1 - last] = False
    return repeated


def _joined(threads: Records) -> Records:
    """Return one ledger for each process: the sum of these."""
    from analysis.schema import OTHERS

    pids, place = np.unique(threads["pid"], return_inverse=True)
    joined = np.zeros(len(pids), THREAD)
    joined["kind"], joined["pid"], joined["tid"] = KINDS["THREAD"], pids, OTHERS
    joined["role"] = 1
    joined["ts"] = np.iinfo(np.uint64).max
    np.minimum.at(joined["ts"], place, threads["ts"])
    for name in _SUMS:
        most = np.iinfo(THREAD[name]).max
        summed = np.zeros(len(pids), np.uint64)
        np.add.at(summed, place, threads[name].astype(np.uint64))
        joined[name] = np.minimum(summed, most)
    return joined.view(CALL)
