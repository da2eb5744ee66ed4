"""CALL records as the columns of ``calls.csv``, while a recording runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from probes.calls import CALLS
from probes.layout import FLAGS
from tracer.ring import Records

if TYPE_CHECKING:
    import pandas as pd

__all__ = ("RECEIVES", "frame_of", "phases_since")

Ints = NDArray[np.int64]

RECEIVES = np.array([call.kind in ("receive", "submit") for call in CALLS])
"""Which calls can bring data, by the index of the call."""


def phases_since(calls: Records, begin: int) -> dict[str, Ints]:
    """Return the phases of calls, without what of their sleep was before ``begin``."""
    phases = {
        name: calls[name].astype(np.int64) for name in ("sleep", "runq", "spin", "check", "copy")
    }
    phases["copy"][(calls["flags"] & FLAGS["COPY_UNKNOWN"]) != 0] = 0
    phases["overhead"] = calls["duration"].astype(np.int64) - sum(phases.values())
    earlier = np.maximum(begin - calls["ts"].astype(np.int64), 0)
    phases["sleep"] = np.maximum(phases["sleep"] - earlier, 0)
    return phases


def frame_of(calls: Records, contexts: Sequence[str]) -> pd.DataFrame:
    """Return CALL records as the columns of ``calls.csv`` that recognition reads."""
    import pandas as pd

    unfinished = (calls["flags"] & FLAGS["UNFINISHED"]) != 0
    kinds = np.array([call.kind for call in CALLS])[calls["call"]]
    result = calls["result"].astype(np.int64)
    columns: dict[str, Any] = {
        "ts_ns": calls["ts"].astype(np.int64),
        "duration_ns": calls["duration"].astype(np.int64),
        "pid": calls["pid"].astype(np.int64),
        "tid": calls["tid"].astype(np.int64),
        "context": np.array(contexts)[calls["context"]],
        "call": np.array([call.name for call in CALLS])[calls["call"]],
        "socket": calls["socket"].astype(np.int64),
        "nfds": calls["nfds"].astype(np.int64),
        "ready": pd.array(result, dtype="Int64"),
        "result": pd.array(result, dtype="Int64"),
        "bytes": pd.array(calls["bytes"].astype(np.int64), dtype="Int64"),
        **{f"{name}_ns": values for name, values in phases_since(calls, 0).items()},
    }
    columns["ready"][(kinds != "wait") | unfinished | (result < 0)] = pd.NA
    columns["result"][unfinished] = pd.NA
    columns["copy_ns"] = pd.array(columns["copy_ns"], dtype="Int64")
    columns["copy_ns"][(calls["flags"] & FLAGS["COPY_UNKNOWN"]) != 0] = pd.NA
    unseen = (calls["flags"] & FLAGS["BYTES_UNKNOWN"]) != 0
    columns["bytes"][~RECEIVES[calls["call"]] | unfinished | unseen] = pd.NA
    return pd.DataFrame(columns).sort_values(["tid", "ts_ns"], ignore_index=True)
