"""What happened in the last interval, added up: by process, by thread, by connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.layout import FLAGS, KINDS, NAME, SOCKET
from tracer.addresses import printed_addresses
from tracer.comm import printable
from tracer.live.frames import RECEIVES, phases_since
from tracer.ring import Records

__all__ = ("Group", "Names", "Window")

Ints = NDArray[np.int64]

_NOTHING = -1
_NAMES = 20_000
"""Names of threads, and of sockets, that are remembered: some MB."""


@dataclass
class Group:
    """One line: a process, a thread or a connection, over one interval.

    Shares are of the interval's time, of all its threads together; times in ns, None is unknown.
    """

    key: int
    pid: int
    calls: float
    """Per second, as are ``bytes``."""
    bytes: float
    wait: float
    copy: float | None
    cpu: float
    """On the CPU in the calls: spin + check + copy + overhead."""
    deliveries: int
    p50: float | None
    p99: float | None
    longest: float | None


class Names:
    """What threads and sockets are called, as far as their records have come by."""

    def __init__(self) -> None:
        self.threads: dict[int, str] = {}
        self.processes: dict[int, str] = {}
        self.sockets: dict[int, str] = {}

    def learn(self, records: Records) -> None:
        """Take in NAME and SOCKET records."""
        for name in records[records["kind"] == KINDS["NAME"]].view(NAME):
            comm = printable(bytes(name["comm"]))
            self.threads[int(name["tid"])] = comm
            if name["tid"] == name["pid"] or int(name["pid"]) not in self.processes:
                self.processes[int(name["pid"])] = comm
        sockets = records[records["kind"] == KINDS["SOCKET"]].view(SOCKET)
        if len(sockets):
            ends = (printed_addresses(sockets, end) for end in ("remote", "local"))
            for inode, remote, local in zip(sockets["socket"], *ends, strict=True):
                if remote is not None or local is not None:
                    self.sockets[int(inode)] = str(remote) if remote else f"at {local}"

    def forget(self, calls: Records) -> None:
        """Forget the oldest names, but none of these calls, where there are very many."""
        kinds = ((self.threads, "tid"), (self.processes, "pid"), (self.sockets, "socket"))
        for names, column in kinds:
            if len(names) > _NAMES:
                kept = set(list(names)[-_NAMES // 2 :]) | set(calls[column].tolist())
                for key in [key for key in names if key not in kept]:
                    del names[key]


class Window:
    """The records of one interval of ``seconds`` that ended at ``now_ns``.

    Calls that are not finished are among them: they count as time, and not as calls.
    """

    def __init__(self, records: Records, now_ns: int, seconds: float) -> None:
        self._seconds = seconds
        self._begin = now_ns - int(seconds * 1e9)
        kind = records["kind"]
        self.calls = records[kind == KINDS["CALL"]]
        delivered = (records["flags"] & FLAGS["DELIVERED"]) != 0
        known = (records["flags"] & FLAGS["READY_UNKNOWN"]) == 0
        carries = ((kind == KINDS["DELIVERY"]) | ((kind == KINDS["CALL"]) & delivered)) & known
        self._arrivals = records[carries]
        self._phases = phases_since(self.calls, self._begin)

    def by(self, column: str) -> list[Group]:
        """Return the groups by ``pid``, ``tid`` or ``socket`` (0, none, is left out)."""
        keys = self.calls[column].astype(np.int64)
        arrival_keys = self._arrivals[column].astype(np.int64)
        groups = np.unique(np.concatenate([keys, arrival_keys]))
        groups = groups[groups > 0] if column == "socket" else groups
        sums = self._sums(groups, keys)
        quantiles = self._quantiles(groups, arrival_keys)
        pids = self._pids(groups, keys, arrival_keys, column)
        found = []
        for at, key in enumerate(groups.tolist()):
            calls, received, wait, copy, cpu = (column[at] for column in sums)
            deliveries, p50, p99, longest = quantiles[at]
            found.append(
                Group(
                    key=key,
                    pid=int(pids[at]),
                    calls=calls,
                    bytes=received,
                    wait=wait,
                    copy=copy,
                    cpu=cpu,
                    deliveries=deliveries,
                    p50=p50,
                    p99=p99,
                    longest=longest,
                )
            )
        return found

    def _sums(self, groups: Ints, keys: Ints) -> list[list[Any]]:
        place, known = _places(groups, keys)
        phases = {name: values[known] for name, values in self._phases.items()}
        received = np.where(RECEIVES[self.calls["call"]], self.calls["bytes"], 0)[known]

        def total(values: NDArray[Any]) -> NDArray[np.float64]:
            summed = np.zeros(len(groups))
            np.add.at(summed, place, values)
            return summed

        wait = sum((total(phases[name]) for name in ("sleep", "runq", "spin", "check")), 0.0)
        cpu = sum((total(phases[name]) for name in ("spin", "check", "copy", "overhead")), 0.0)
        unseen = (received > 0) & ((self.calls["flags"][known] & FLAGS["COPY_UNKNOWN"]) != 0)
        copies, unknown = total(received > 0), total(unseen)
        span = self._seconds * 1e9
        copy = (total(phases["copy"]) / span).astype(object)
        copy[(unknown > 0) & (unknown == copies)] = None
        finished = (self.calls["flags"][known] & FLAGS["UNFINISHED"]) == 0
        columns = (
            total(finished) / self._seconds,
            total(received) / self._seconds,
            wait / span,
            copy,
            cpu / span,
        )
        return [list(np.atleast_1d(column)) for column in columns]

    def _quantiles(
        self, groups: Ints, keys: Ints
    ) -> list[tuple[int, float | None, float | None, float | None]]:
        """Return deliveries, p50, p99 and the longest of ready -> copied, by group."""
        place, known = _places(groups, keys)
        waited = self._arrivals["copied"].astype(np.int64) - self._arrivals["ready"].astype(
            np.int64
        )
        waited = np.maximum(waited[known], 0)
        order = np.lexsort((waited, place))
        waited, place = waited[order], place[order]
        edges = np.searchsorted(place, np.arange(len(groups) + 1))
        found: list[tuple[int, float | None, float | None, float | None]] = []
        for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            if begin == end:
                found.append((0, None, None, None))
                continue
            p50, p99, longest = np.quantile(waited[begin:end], (0.5, 0.99, 1.0)).tolist()
            found.append((end - begin, p50, p99, longest))
        return found

    def _pids(self, groups: Ints, keys: Ints, arrival_keys: Ints, column: str) -> Ints:
        if column == "pid":
            return groups
        pids = np.full(len(groups), _NOTHING, np.int64)
        for own, records in ((arrival_keys, self._arrivals), (keys, self.calls)):
            place, known = _places(groups, own)
            pids[place] = records["pid"][known]
        return pids


def _places(groups: Ints, keys: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Return where each known key stands among the sorted groups, and which keys are known."""
    if not len(groups):
        return np.empty(0, np.int64), np.zeros(len(keys), bool)
    place = np.minimum(np.searchsorted(groups, keys), len(groups) - 1)
    known = groups[place] == keys
    return place[known], known
