"""Per connection: who it is with, what it brought, and how long its data waited."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.load import Trace
from analysis.schema import CALLS, CONNECTIONS, DELIVERIES, PHASE_COLUMNS, SOCKETS, WAIT_PHASES

__all__ = ("QUANTILES", "connections", "longest_stretches", "socket_totals")

QUANTILES = {"delivery_p50_ns": 0.5, "delivery_p99_ns": 0.99, "delivery_max_ns": 1.0}

_TOTALS = ("calls", "bytes", "wait_ns", "copy_ns")


def connections(trace: Trace) -> pd.DataFrame:
    """Return one row per socket that was received from, the longest wait of its data first.

    Columns: ``socket``, ``pid``, ``family``, ``protocol``, ``local``, ``remote``, ``calls``,
    ``bytes``, ``wait_ns`` = sleep + runq + spin + check of the calls on it alone (a waiting call on
    many is not shared out), ``copy_ns``, ``deliveries``, the quantiles of ready -> copied, and
    ``longest_ready_ns``: the longest time without a break that data lay in its receive queue.
    A figure that nothing gives is NA. Raises TraceError.
    """
    if trace.meta.get("summary"):
        return trace.read(CONNECTIONS, list(CONNECTIONS.columns))
    totals = _reduced(_totals_of_pieces(trace))
    arrivals = trace.read(DELIVERIES, ["socket", "pid", "bytes", "ready_ns", "copied_ns"])
    table = totals.join(_delivered(arrivals), how="outer").reset_index()
    for name in ("pid", "bytes"):  # of a receive that io_uring did, no call names the socket
        table[name] = table[name].fillna(table.pop(f"delivered_{name}"))
    names = trace.read(SOCKETS, list(SOCKETS.columns)).drop_duplicates("socket", keep="last")
    table = table.merge(names, on="socket", how="left")
    return _ordered(table)


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    integers = [name for name, kind in CONNECTIONS.columns.items() if kind.startswith("int")]
    table = table.reindex(columns=list(CONNECTIONS.columns))
    table[integers] = table[integers].astype("Float64").round().astype("Int64")
    keys = ["longest_ready_ns", "bytes"]
    return table.sort_values(keys, ascending=False, na_position="last", ignore_index=True)


def socket_totals(calls: pd.DataFrame) -> pd.DataFrame:
    """Return sums of rows of ``calls.csv`` by socket: ``pid``, ``calls``, ``bytes``, ...

    What it took to copy nothing says nothing of a socket of whose other copies it is unknown.
    """
    own = calls[calls["socket"].notna() & calls["bytes"].notna()]
    wait = own[[f"{phase}_ns" for phase in WAIT_PHASES]].sum(axis="columns")
    copy = own["copy_ns"].where(own["bytes"] > 0)
    values = own[["socket", "pid", "bytes"]].assign(calls=1, wait_ns=wait, copy_ns=copy)
    return _reduced([values])


def _totals_of_pieces(trace: Trace) -> Iterator[pd.DataFrame]:
    columns = ["socket", "pid", "bytes", *PHASE_COLUMNS]
    for piece in trace.pieces(CALLS, columns):
        yield socket_totals(piece).reset_index()


def _reduced(parts: Iterator[pd.DataFrame] | list[pd.DataFrame]) -> pd.DataFrame:
    whole = pd.concat(list(parts), ignore_index=True)
    grouped = whole.groupby("socket")
    summed = grouped[list(_TOTALS)].sum(min_count=1)
    summed.insert(0, "pid", grouped["pid"].first())
    return summed


def _delivered(arrivals: pd.DataFrame) -> pd.DataFrame:
    """Return the figures of deliveries by socket."""
    known = arrivals[["socket", "ready_ns", "copied_ns"]].dropna()
    known = known[known["copied_ns"] >= known["ready_ns"]].astype("int64")
    waited = (known["copied_ns"] - known["ready_ns"]).groupby(known["socket"])
    figures = pd.DataFrame(
        {name: waited.quantile(share) for name, share in QUANTILES.items()}, dtype="float64"
    )
    figures["longest_ready_ns"] = longest_stretches(known)
    every = arrivals.groupby("socket")
    counted = pd.DataFrame(
        {
            "deliveries": every.size(),
            "delivered_pid": every["pid"].first(),
            "delivered_bytes": every["bytes"].sum(min_count=1),
        }
    )
    return figures.join(counted, how="outer")


def longest_stretches(arrivals: pd.DataFrame) -> pd.Series:
    """Return by socket the longest time that data lay ready, in ns.

    Deliveries that overlap are one stretch: it ends when everything that had come was taken.
    ``arrivals`` has integer ``socket``, ``ready_ns`` and ``copied_ns``.
    """
    ordered = arrivals.sort_values(["socket", "ready_ns"], kind="stable")
    until = ordered.groupby("socket")["copied_ns"].cummax()
    before = until.groupby(ordered["socket"]).shift()
    stretch = (ordered["ready_ns"] > before.fillna(-1)).cumsum()
    begins = ordered["ready_ns"].groupby(stretch).min()
    ends = until.groupby(stretch).max()
    sockets = ordered["socket"].groupby(stretch).first()
    lengths: pd.Series = (ends - begins).groupby(np.asarray(sockets)).max()
    return lengths.rename_axis("socket")
