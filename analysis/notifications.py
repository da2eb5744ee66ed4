"""What it cost to tell the receiver that data had come, and by which callback it was told.

This time is spent in someone else's context, the sender's softirq for one, and is in no ledger.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from analysis.load import Trace
from analysis.schema import DELIVERIES

__all__ = ("notifications",)

_COLUMNS = ("notify_ns", "waker_context", "notifier", "callback_ns")


def notifications(traces: Iterable[Trace]) -> pd.DataFrame:
    """Return one row per trace, notifier and waker context.

    Columns: ``trace``, ``model``, ``notifier`` (``ep_poll_callback`` and its like, ``none``; NA
    where no function probe saw it), ``waker_context``, ``deliveries``, ``measured`` (those with a
    known cost), ``notify_mean_ns``, ``callback_mean_ns`` (NA where nothing was measured).
    """
    frames = []
    for trace in traces:
        data = trace.read(DELIVERIES, _COLUMNS)
        data = data.astype({"notifier": "string", "waker_context": "string"})
        grouped = data.groupby(["notifier", "waker_context"], dropna=False)
        table = grouped.agg(
            deliveries=("notifier", "size"),
            measured=("notify_ns", "count"),
            notify_mean_ns=("notify_ns", "mean"),
            callback_mean_ns=("callback_ns", "mean"),
        ).reset_index()
        table.insert(0, "model", trace.model)
        table.insert(0, "trace", trace.name)
        frames.append(table)
    return pd.concat(frames, ignore_index=True)
