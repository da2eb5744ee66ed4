"""Calls cut into their phases along time: for timelines, sequences and the Perfetto export.

A trace holds how long each phase of a call was, not where in the call it lay. Slices are laid in
the order in which the kernel goes through them: check (or spin), sleep, runq, copy, overhead.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.thread_calls import to_int

__all__ = ("PHASE_ORDER", "slices")

PHASE_ORDER = ("spin", "check", "sleep", "runq", "copy", "overhead")


def slices(calls: pd.DataFrame) -> pd.DataFrame:
    """Return one row per call and phase that took time.

    Columns: ``row`` (the position of the call in ``calls``), ``tid``, ``phase``, ``begin_ns``,
    ``end_ns``. The slices of a call touch each other and fill its duration.
    """
    lengths = np.stack([to_int(calls[f"{phase}_ns"]) for phase in PHASE_ORDER], axis=1)
    ends = to_int(calls["ts_ns"])[:, np.newaxis] + np.cumsum(lengths, axis=1)
    row, phase = np.nonzero(lengths)
    end = ends[row, phase]
    return pd.DataFrame(
        {
            "row": row,
            "tid": to_int(calls["tid"])[row],
            "phase": pd.Categorical.from_codes(phase, pd.Index(PHASE_ORDER)),
            "begin_ns": end - lengths[row, phase],
            "end_ns": end,
        }
    )
