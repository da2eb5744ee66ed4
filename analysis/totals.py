"""Sums over the calls of a trace, per group: what every attribution is made of.

Sums are additive: those of two traces put together are the sums of their sums, and a trace larger
than memory is added up in pieces.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from analysis.load import Trace
from analysis.schema import CALLS, PHASE_COLUMNS

__all__ = ("GROUPS", "SUMS", "call_totals")

GROUPS: Mapping[str, tuple[str, ...]] = {
    "model": (),
    "call": ("call",),
    "context": ("context",),
    "thread": ("pid", "tid"),
    "connection": ("socket",),
}
"""What calls can be grouped by, and the columns that make the group."""

SUMS = ("calls", "receives", "bytes", "call_ns", *PHASE_COLUMNS, "check_copy_ns")
"""``receives`` are calls that brought data; ``call_ns`` is the sum of durations; ``check_copy_ns``
is the part of check that moves descriptor sets, where function probes could see it."""


def _piece_totals(piece: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    values = piece.assign(
        calls=1, receives=(piece["bytes"] > 0).fillna(False).astype("int64")
    ).rename(columns={"duration_ns": "call_ns"})
    if not keys:
        return values[list(SUMS)].sum(min_count=1).to_frame().T
    grouped = values.groupby(keys, dropna=False, observed=True)[list(SUMS)]
    return grouped.sum(min_count=1).reset_index()


def call_totals(trace: Trace, by: str) -> pd.DataFrame:
    """Return one row per group of ``GROUPS[by]``: its key columns, then ``SUMS``.

    A phase that was measured in no call of the group is NA. Raises TraceError on a damaged file.
    """
    keys = list(GROUPS[by])
    columns = [*keys, "duration_ns", "bytes", *PHASE_COLUMNS, "check_copy_ns"]
    parts = [_piece_totals(piece, keys) for piece in trace.pieces(CALLS, columns)]
    for part in parts:
        for key in keys:
            if isinstance(part[key].dtype, pd.CategoricalDtype):
                part[key] = part[key].astype("str")
    whole = pd.concat(parts, ignore_index=True)
    if not keys:
        total = whole.sum(min_count=1).to_frame().T
        return total.fillna({"calls": 0, "receives": 0, "bytes": 0, "call_ns": 0}).astype("Int64")
    whole = whole.groupby(keys, dropna=False, sort=True)[list(SUMS)].sum(min_count=1).reset_index()
    return whole.fillna({"bytes": 0}).astype(dict.fromkeys(SUMS, "Int64"))
