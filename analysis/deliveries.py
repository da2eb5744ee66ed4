"""The data's view: how long data waited between its arrival and its copy, and for what."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from analysis.delivery_waits import REASONS, delivery_waits
from analysis.load import Trace

__all__ = ("QUANTILES", "deliveries")

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999, "max": 1.0}


def deliveries(traces: Iterable[Trace]) -> pd.DataFrame:
    """Return one row per trace: percentiles of its deliveries, and what they waited for.

    Columns: ``trace``, ``model``, ``deliveries``, ``unknown`` (arrival or copy was not seen),
    ``total_<q>_ns`` and ``unnoticed_<q>_ns`` for the quantiles, ``mean_ns``, and per reason of
    ``REASONS`` its ``<reason>_share`` of all waiting; a figure that nothing gives is NaN.
    """
    return pd.DataFrame([_row(trace) for trace in traces])


def _row(trace: Trace) -> dict[str, object]:
    waits = delivery_waits(trace)
    row: dict[str, object] = {
        "trace": trace.name,
        "model": trace.model,
        "deliveries": len(waits),
        "unknown": len(trace.deliveries) - len(waits),
        "mean_ns": float("nan"),
    }
    for name in ("total", "unnoticed"):
        known = waits[f"{name}_ns"].dropna().astype("int64")
        values = known.quantile(list(QUANTILES.values()))
        for label, value in zip(QUANTILES, values, strict=True):
            row[f"{name}_{label}_ns"] = float(value)
    total = int(waits["total_ns"].sum())
    if len(waits):
        row["mean_ns"] = total / len(waits)
    for reason in REASONS:
        column = waits[f"{reason}_ns"]
        unknown = total == 0 or column.isna().all()
        row[f"{reason}_share"] = float("nan") if unknown else int(column.sum()) / total
    return row
