"""The verdict in a few sentences: waiting or copying, and who pays most for what."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.summary import partly_seen
from analysis.tables import labels
from analysis.units import share_text, time_text

__all__ = ("headline",)

MODELS_TO_COMPARE = 2


def _range(values: pd.Series) -> str:
    low, high = share_text(values.min()), share_text(values.max())
    return f"{high} %" if low == high else f"{low} to {high} %"


def _extremes(summary: pd.DataFrame, column: str) -> tuple[str, float, str, float]:
    names = labels(summary)
    values = summary[column]
    low, high = int(values.argmin()), int(values.argmax())
    return names[low], float(values.iloc[low]), names[high], float(values.iloc[high])


def headline(summary: pd.DataFrame) -> Iterator[str]:
    """Yield the sentences; one whose figures are absent is left out."""
    seen = (summary["deliveries"] > 0) & ~partly_seen(summary)
    summary = summary[seen].reset_index(drop=True)
    wait, copy = summary["wait"].dropna(), summary["copy"].dropna()
    if len(wait) and len(copy):
        yield (
            f"Waiting took {_range(wait)} of the threads' wall time, "
            f"copying from the kernel to the process {_range(copy)}."
        )
    elif len(wait):
        yield (
            f"Waiting took {_range(wait)} of the threads' wall time; "
            "no probe of this backend could see the copy."
        )
    cost = summary.dropna(subset=["cpu_per_request_ns"]).reset_index(drop=True)
    if len(cost) >= MODELS_TO_COMPARE:
        cheap, least, dear, most = _extremes(cost, "cpu_per_request_ns")
        yield (
            f"A request cost {time_text(least)} of CPU time with {cheap}, "
            f"{time_text(most)} with {dear}."
        )
    elif len(cost):
        yield f"A request cost {time_text(cost['cpu_per_request_ns'][0])} of CPU time."
    late = summary.dropna(subset=["delivery_p99_ns"]).reset_index(drop=True)
    if len(late) >= MODELS_TO_COMPARE:
        quick, least, slow, most = _extremes(late, "delivery_p99_ns")
        yield (
            f"99 % of the data was in the process within {time_text(least)} of its arrival with "
            f"{quick}, within {time_text(most)} with {slow}."
        )
    elif len(late):
        yield (
            "99 % of the data was in the process within "
            f"{time_text(late['delivery_p99_ns'][0])} of its arrival."
        )
