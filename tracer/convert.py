"""Turns a spool of raw records into the CSV files of a trace directory.

Chunk by chunk, so that the memory does not grow with the trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.layout import KINDS, NAME, SOCKET, THREAD
from tracer.columns import (
    CALLS_COLUMNS,
    DELIVERIES_COLUMNS,
    SOCKETS_COLUMNS,
    THREADS_COLUMNS,
    Names,
    calls_table,
    delivered,
    deliveries_table,
    overhead,
    sockets_table,
    thread_remainder,
    threads_table,
)
from tracer.csvfiles import CsvFiles
from tracer.errors import IophaseError
from tracer.narrowing import Narrowing
from tracer.order import TimeOrder, take
from tracer.ring import Records
from tracer.spool import Spool, open_spool

__all__ = ("CSV_COLUMNS", "Converted", "Progress", "convert")

CSV_COLUMNS = {
    "calls.csv": CALLS_COLUMNS,
    "deliveries.csv": DELIVERIES_COLUMNS,
    "threads.csv": THREADS_COLUMNS,
    "sockets.csv": SOCKETS_COLUMNS,
}
"""The files of a trace and their columns."""

_SOCKET_FIELDS = tuple(
    name for name in SOCKET.names or () if name.startswith(("socket", "local", "remote", "pro"))
)
_SOCKET_FIELDS_TYPE = np.dtype([(name, SOCKET[name]) for name in _SOCKET_FIELDS])

Progress = Callable[[int, int], object]
"""Called with the records that are converted and with their total."""


@dataclass
class Converted:
    """What was in a spool."""

    records: int = 0
    """All records, NAME and SOCKET records too."""
    calls: int = 0
    deliveries: int = 0
    threads: int = 0
    """Rows written to calls.csv, deliveries.csv and threads.csv."""
    unreadable: int = 0
    """Records of no known kind: left by a crash of the machine, and left out."""
    left_out: int = 0
    """Records that the recording was told to leave out."""
    unclosed_calls: int = 0
    """Calls whose phases add up to more than their duration: a defect of a probe."""
    unclosed_threads: int = 0
    """Threads whose ledger does not add up to their wall time: a defect of a probe."""
    first_ns: int | None = None
    """The earliest beginning of a call or a thread; None when there was none."""
    last_ns: int | None = None
    """The latest end of a call or a thread."""

    def _span(self, begin: Any, length: Any) -> None:
        if len(begin):
            first, last = int(begin.min()), int((begin + length).max())
            self.first_ns = first if self.first_ns is None else min(first, self.first_ns)
            self.last_ns = last if self.last_ns is None else max(last, self.last_ns)

    def count_calls(self, records: Records) -> None:
        """Count CALL records."""
        self.calls += len(records)
        self.unclosed_calls += int(np.count_nonzero(overhead(records) < 0))
        self._span(records["ts"], records["duration"])

    def count_threads(self, records: Records) -> None:
        """Count THREAD records."""
        self.threads += len(records)
        self.unclosed_threads += int(np.count_nonzero(thread_remainder(records)))
        self._span(records["ts"], records["wall"])


def convert(
    spool: Path,
    paths: Mapping[str, Path],
    *,
    model: str | None = None,
    narrowing: Narrowing | None = None,
    progress: Progress | None = None,
) -> Converted:
    """Write the CSV files of the records in ``spool``, and return what there was.

    ``narrowing`` leaves calls, deliveries and threads out. ``paths`` says where each file of
    ``CSV_COLUMNS`` goes; nothing may be there yet. When anything fails, a Ctrl-C included, what was
    written is removed, and the spool is as before.
    Raises IophaseError when the spool cannot be read or a file cannot be written.
    """
    opened = open_spool(spool)
    columns = {paths[name]: CSV_COLUMNS[name] for name in CSV_COLUMNS}
    try:
        with CsvFiles(columns) as csv:
            wanted = narrowing or Narrowing()
            return _convert(opened, csv, paths, model, wanted, progress or _silent)
    except OSError as error:
        raise IophaseError(
            f"{error.filename}: cannot be written: {error.strerror}; all records are kept in"
            f" {spool.name}: free some space, then 'iophase report {spool.parent}'"
        ) from error


def _silent(_done: int, _total: int) -> None:
    """Report no progress."""


def _convert(
    spool: Spool,
    csv: CsvFiles,
    paths: Mapping[str, Path],
    model: str | None,
    narrowing: Narrowing,
    progress: Progress,
) -> Converted:
    total = len(spool.records)
    progress(0, total)
    done = Converted(records=total)
    order = TimeOrder(spool.records, {KINDS["CALL"], KINDS["DELIVERY"]})
    few = _set_aside(spool, order, done)
    names = Names(few["NAME"].view(NAME))
    threads, sockets = few["THREAD"].view(THREAD), few["SOCKET"].view(SOCKET)
    if narrowing:
        threads = _kept(threads, narrowing.threads(threads), done)
    done.count_threads(threads)
    csv.append(paths["threads.csv"], lambda: threads_table(threads, names, model))
    csv.append(paths["sockets.csv"], lambda: sockets_table(_different(sockets)))
    converted = len(few["THREAD"]) + len(sockets) + len(few["NAME"]) + done.unreadable
    for batch in order.batches():
        converted += len(batch)
        if narrowing:
            batch = _kept(batch, narrowing.calls(batch, sockets), done)
        calls = take(batch, np.flatnonzero(batch["kind"] == KINDS["CALL"]))
        arrivals = take(batch, np.flatnonzero(delivered(batch)))
        done.count_calls(calls)
        done.deliveries += len(arrivals)
        csv.append(paths["calls.csv"], partial(calls_table, calls, names, spool.calls))
        csv.append(paths["deliveries.csv"], partial(deliveries_table, arrivals))
        spool.release()
        progress(converted, total)
    return done


def _kept(records: Records, wanted: NDArray[np.bool_], done: Converted) -> Records:
    """Return the wanted records; count the others as left out."""
    done.left_out += len(records) - int(np.count_nonzero(wanted))
    return take(records, np.flatnonzero(wanted))


def _different(sockets: Records) -> Records:
    """Return SOCKET records without those that say the same of a socket as an earlier one.

    A socket that was open before is known from the beginning, and seen again when it is used.
    """
    said = np.ascontiguousarray(sockets[list(_SOCKET_FIELDS)]).astype(_SOCKET_FIELDS_TYPE)
    _, first = np.unique(said.view(f"V{said.dtype.itemsize}"), return_index=True)
    return take(sockets, np.sort(first))


def _set_aside(spool: Spool, order: TimeOrder, done: Converted) -> dict[str, Records]:
    """Survey the spool for ``order``; return the records of the kinds that are few, by time."""
    others = [spool.records[:0]]
    for start in order.starts():
        others.append(order.survey(start))
        spool.release()
    rest = np.concatenate(others)
    rest = take(rest, np.argsort(rest["ts"], kind="stable"))
    few = {
        name: take(rest, np.flatnonzero(rest["kind"] == KINDS[name]))
        for name in ("NAME", "THREAD", "SOCKET")
    }
    done.unreadable = len(rest) - sum(len(found) for found in few.values())
    return few
