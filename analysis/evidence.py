"""What each thread did with each call, as counts and sums: what recognition is made from.

Evidence is additive: that of two recordings put together is their sum, so it can be gathered in
pieces, from a file or while a recording runs.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from analysis.load import Trace
from analysis.schema import CALLS, EVIDENCE, EVIDENCE_KEYS, PHASE_COLUMNS

__all__ = ("NEEDED", "added", "evidence", "gather")

EAGAIN = 11

NEEDED = (
    "ts_ns", "duration_ns", "pid", "tid", "context", "call", "socket", "nfds", "ready", "result",
    "bytes", *PHASE_COLUMNS,
)  # fmt: skip
"""The columns of ``calls.csv`` that ``gather`` reads."""

_SUMS = [
    column for column in EVIDENCE.columns if column not in EVIDENCE_KEYS and column != "nfds_max"
]


def _drained(calls: pd.DataFrame, again: pd.Series) -> pd.Series:
    """Tell which EAGAIN followed directly on data of the same socket in the same thread."""
    before = calls.groupby("tid", sort=False)[["socket", "bytes"]].shift()
    same = (before["socket"] == calls["socket"]).fillna(False)
    return again & same & (before["bytes"] > 0).fillna(False)


def gather(calls: pd.DataFrame) -> pd.DataFrame:
    """Return the evidence in rows of ``calls.csv``: the columns of ``EVIDENCE``.

    The rows of one thread are in the order of time.
    """
    if calls.empty:
        return pd.DataFrame({name: pd.Series(dtype="int64") for name in EVIDENCE.columns})
    again = (calls["result"] == -EAGAIN).fillna(False)
    counted = calls[[*EVIDENCE_KEYS, "duration_ns", *PHASE_COLUMNS]].assign(
        calls=1,
        slept=calls["sleep_ns"] > 0,
        again=again,
        drained=_drained(calls, again),
        reported=(calls["ready"] > 0).fillna(False),
        empty=(calls["ready"] == 0).fillna(False),
        unfinished=calls["result"].isna() & (calls["context"] == "process"),
        received=(calls["bytes"] > 0).fillna(False),
        bytes=calls["bytes"].fillna(0),
        single=(calls["nfds"] == 1).fillna(False),
        nfds_max=calls["nfds"].fillna(0),
    )
    for name in ("context", "call"):
        counted[name] = counted[name].astype("str")
    counted[list(PHASE_COLUMNS)] = counted[list(PHASE_COLUMNS)].fillna(0)
    numbers = [*_SUMS, "nfds_max"]
    counted[numbers] = counted[numbers].astype(np.int64)
    return _reduced(counted)


def _reduced(counted: pd.DataFrame) -> pd.DataFrame:
    how = dict.fromkeys(_SUMS, "sum") | {"nfds_max": "max"}
    grouped = counted.groupby(list(EVIDENCE_KEYS), as_index=False, sort=True)
    reduced: pd.DataFrame = grouped.agg(how)
    return reduced[list(EVIDENCE.columns)]


def added(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return the sum of evidence."""
    filled = [part for part in parts if len(part)]
    if not filled:
        return gather(pd.DataFrame())
    return filled[0] if len(filled) == 1 else _reduced(pd.concat(filled, ignore_index=True))


def evidence(trace: Trace) -> pd.DataFrame:
    """Return the evidence of a trace: a row per thread, context and call.

    ``slept`` counts calls that slept inside, ``again`` those that ended with EAGAIN, ``drained``
    those of them that came directly after data of the same socket, ``reported`` and ``empty``
    waiting calls that found something or nothing, ``single`` those that asked about one
    descriptor, ``unfinished`` those still running at the end, ``received`` those that brought
    data. Raises TraceError.
    """
    if trace.meta.get("summary"):
        return trace.read(EVIDENCE, list(EVIDENCE.columns))
    return added(gather(piece) for piece in trace.pieces(CALLS, list(NEEDED)))
