"""Turns records into the columns of the CSV files, whole columns at a time.

What the columns mean is in SCHEMA.md. A mask marks the unknown values, which become empty fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from probes.layout import CONTEXT_NAMES, FLAGS, KINDS, NOTIFIER_NAMES, WAKER_NAMES
from tracer.addresses import families, printed_addresses, protocols
from tracer.comm import printable
from tracer.csvfiles import quoted
from tracer.ring import Records
from tracer.spool import CallName

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = (
    "CALLS_COLUMNS",
    "DELIVERIES_COLUMNS",
    "SOCKETS_COLUMNS",
    "THREADS_COLUMNS",
    "Names",
    "calls_table",
    "delivered",
    "deliveries_table",
    "overhead",
    "sockets_table",
    "thread_remainder",
    "threads_table",
)

CALLS_COLUMNS = (
    "ts_ns", "duration_ns", "cpu", "pid", "tid", "comm", "context", "call", "fd", "socket", "nfds",
    "ready", "result", "bytes",
    "sleep_ns", "runq_ns", "spin_ns", "check_ns", "copy_ns", "overhead_ns",
    "check_copy_ns", "function_ns",
)  # fmt: skip
DELIVERIES_COLUMNS = (
    "socket", "fd", "pid", "tid", "ready_ns", "noticed_ns", "copied_ns", "bytes", "notify_ns",
    "waker_context", "notifier", "callback_ns",
)  # fmt: skip
THREADS_COLUMNS = (
    "pid", "tid", "comm", "role", "model", "wall_ns", "user_ns",
    "sleep_ns", "runq_ns", "spin_ns", "check_ns", "copy_ns", "overhead_ns",
    "other_calls_ns", "off_cpu_elsewhere_ns", "calls", "bytes",
    "voluntary_switches", "involuntary_switches",
    "epoll_level", "epoll_edge", "epoll_oneshot", "sigio_sockets",
)  # fmt: skip
SOCKETS_COLUMNS = ("socket", "family", "protocol", "local", "remote")

_ROLES = ("main", "thread")
"""The main thread of its process, a further one; the index is the record's ``role``."""

_CALLS_WITH_NFDS = frozenset({"select", "pselect6", "poll", "ppoll"})

_THREAD_PARTS = (
    "user", "sleep", "runq", "spin", "check", "copy", "overhead", "other_calls",
    "off_cpu_elsewhere",
)  # fmt: skip

Mask = NDArray[np.bool_]


class Names:
    """What each thread was called at each time, from the NAME records."""

    def __init__(self, records: Records) -> None:
        records = records[np.lexsort((records["ts"], records["tid"]))]
        names, self._name = np.unique(records["comm"], return_inverse=True)
        self._printed = [printable(name) for name in names]
        self._tids = np.unique(records["tid"])
        self._times = np.sort(records["ts"])
        self._keys = self._key(records["tid"], records["ts"])
        self._first = np.searchsorted(records["tid"], self._tids)

    def _key(self, tid: NDArray[np.uint32], ts: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return a number that sorts as (tid, ts) among the NAME records."""
        rank = np.searchsorted(self._times, ts, side="right")
        return np.searchsorted(self._tids, tid) * (len(self._times) + 1) + rank

    def at(self, tid: NDArray[np.uint32], ts: NDArray[np.uint64]) -> pa.Array:
        """Return the name that each thread had; before its first NAME record, the first one."""
        if not len(self._tids):
            return _strings(np.zeros(len(tid), np.int64), [""], np.ones(len(tid), bool))
        thread = np.minimum(np.searchsorted(self._tids, tid), len(self._tids) - 1)
        known = self._tids[thread] == tid
        row = np.searchsorted(self._keys, self._key(tid, ts), side="right") - 1
        row = np.where(known, np.maximum(row, self._first[thread]), 0)
        return _strings(self._name[row], self._printed, ~known)


def _integers(values: NDArray[Any], unknown: Mask | None = None) -> pa.Array:
    import pyarrow as pa

    return pa.array(np.ascontiguousarray(values), mask=unknown)


def _strings(codes: NDArray[Any], names: Sequence[str], unknown: Mask | None = None) -> pa.Array:
    import pyarrow as pa

    indices = pa.array(codes.astype(np.int32), mask=unknown)
    dictionary = pa.array([quoted(name) for name in names], pa.string())
    return pa.DictionaryArray.from_arrays(indices, dictionary).dictionary_decode()


def _named(codes: NDArray[Any], names: Sequence[str], unknown: Mask | None = None) -> pa.Array:
    """Return ``names[code]``; a code beyond the names is unknown."""
    beyond = codes >= len(names)
    unknown = beyond if unknown is None else unknown | beyond
    return _strings(codes, names, unknown)


def _table(columns: Sequence[str], arrays: Sequence[pa.Array]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_arrays(list(arrays), names=list(columns))


def _flagged(records: Records, *names: str) -> Mask:
    """Return where any of the flags is set."""
    bits = np.uint8(sum(FLAGS[name] for name in names))
    flagged: Mask = (records["flags"] & bits) != 0
    return flagged


def overhead(records: Records) -> NDArray[np.int64]:
    """Return duration - sleep - runq - spin - check - copy of CALL records, in ns.

    An unknown copy stays inside. Negative when the phases do not fit into their call: a defect of a
    probe, to be reported, not hidden.
    """
    rest = records["duration"].astype(np.int64)
    for phase in ("sleep", "runq", "spin", "check"):
        rest -= records[phase].astype(np.int64)
    rest -= np.where(_flagged(records, "COPY_UNKNOWN"), 0, records["copy"].astype(np.int64))
    return rest


def thread_remainder(records: Records) -> NDArray[np.int64]:
    """Return wall - the sum of its parts of THREAD records, in ns: 0 when the ledger closes."""
    rest = records["wall"].astype(np.int64)
    for part in _THREAD_PARTS:
        rest -= records[part].astype(np.int64)
    return rest


def calls_table(records: Records, names: Names, calls: Sequence[CallName]) -> pa.Table:
    """Return the rows of calls.csv for CALL records."""
    call = records["call"]
    kinds = np.zeros(256, [("wait", bool), ("receive", bool), ("nfds", bool)])
    for index, (name, kind) in enumerate(calls):
        kinds[index] = (kind == "wait", kind in ("receive", "submit"), name in _CALLS_WITH_NFDS)
    unfinished = _flagged(records, "UNFINISHED")
    result = records["result"]
    bytes_unknown = unfinished | _flagged(records, "BYTES_UNKNOWN")
    arrays = [
        _integers(records["ts"]),
        _integers(records["duration"]),
        _integers(records["cpu"]),
        _integers(records["pid"]),
        _integers(records["tid"]),
        names.at(records["tid"], records["ts"]),
        _named(records["context"], CONTEXT_NAMES),
        _named(call, [name for name, _ in calls]),
        _integers(records["fd"], records["fd"] < 0),
        _integers(records["socket"], records["socket"] == 0),
        _integers(records["nfds"], ~kinds["nfds"][call]),
        _integers(result, ~kinds["wait"][call] | unfinished | (result < 0)),
        _integers(result, unfinished),
        _integers(records["bytes"], ~kinds["receive"][call] | bytes_unknown),
        *(_integers(records[phase]) for phase in ("sleep", "runq", "spin", "check")),
        _integers(records["copy"], _flagged(records, "COPY_UNKNOWN")),
        _integers(overhead(records)),
        _integers(records["check_copy"], ~_flagged(records, "CHECK_SPLIT")),
        _integers(records["function"], records["function"] == 0),
    ]
    return _table(CALLS_COLUMNS, arrays)


def deliveries_table(records: Records) -> pa.Table:
    """Return the rows of deliveries.csv for delivered CALL records and DELIVERY records."""
    ready_unknown = _flagged(records, "READY_UNKNOWN")
    arrays = [
        _integers(records["socket"], records["socket"] == 0),
        _integers(records["fd"], records["fd"] < 0),
        _integers(records["pid"]),
        _integers(records["tid"]),
        _integers(records["ready"], ready_unknown),
        _integers(records["noticed"], records["noticed"] == 0),
        _integers(records["copied"]),
        _integers(records["delivered"], _flagged(records, "BYTES_UNKNOWN")),
        _integers(records["notify"], ~_flagged(records, "NOTIFY_KNOWN")),
        _named(records["waker"], WAKER_NAMES, ready_unknown),
        _named(records["notifier"], NOTIFIER_NAMES, ~_flagged(records, "NOTIFY_KNOWN")),
        _integers(records["callback"], ~_flagged(records, "NOTIFY_KNOWN")),
    ]
    return _table(DELIVERIES_COLUMNS, arrays)


def delivered(records: Records) -> Mask:
    """Return which CALL and DELIVERY records carry a delivery."""
    carried: Mask = records["kind"] == KINDS["DELIVERY"]
    return carried | _flagged(records, "DELIVERED")


def threads_table(records: Records, names: Names, model: str | None) -> pa.Table:
    """Return the rows of threads.csv for THREAD records; ``comm`` is the last one that each had."""
    models = np.zeros(len(records), np.uint8)
    arrays = [
        _integers(records["pid"]),
        _integers(records["tid"]),
        names.at(records["tid"], records["ts"] + records["wall"]),
        _named(records["role"], _ROLES),
        _strings(models, [model or ""], np.full(len(records), model is None)),
        _integers(records["wall"]),
        *(_integers(records[part]) for part in _THREAD_PARTS),
        _integers(records["calls"]),
        _integers(records["bytes"]),
        _integers(records["voluntary_switches"]),
        *(_integers(records[count]) for count in THREADS_COLUMNS[-5:]),
    ]
    return _table(THREADS_COLUMNS, arrays)


def sockets_table(records: Records) -> pa.Table:
    """Return the rows of sockets.csv for SOCKET records."""
    import pyarrow as pa

    arrays = [
        _integers(records["socket"]),
        pa.array(families(records), pa.string()),
        pa.array(protocols(records), pa.string()),
        pa.array(printed_addresses(records, "local"), pa.string()),
        pa.array(printed_addresses(records, "remote"), pa.string()),
    ]
    return _table(SOCKETS_COLUMNS, arrays)
