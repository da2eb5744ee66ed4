"""What several judges look at: calls that received, calls that waited, CPU time per request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.claims.claim import CannotTell
from analysis.claims.estimate import Estimate, paired_ratio
from analysis.ledger import ledger
from analysis.load import Trace
from analysis.scaling import WAITING
from analysis.schema import CALLS, DELIVERIES
from analysis.summary import count_requests
from analysis.units import number_text

__all__ = (
    "bounds_text",
    "calls_per_request",
    "cpu_per_request_ns",
    "cpu_ratio",
    "cpu_share",
    "delivery_ns",
    "first_waits_ns",
    "main_thread",
    "pairs_text",
    "percent_text",
    "received",
    "waits",
    "workload",
)

Floats = npt.NDArray[np.float64]


def received(trace: Trace) -> pd.DataFrame:
    """Return the calls that brought data. Raises CannotTell where no probe saw the copy."""
    calls = trace.read(
        CALLS, ["tid", "context", "call", "socket", "bytes", "sleep_ns", "copy_ns", "duration_ns"]
    )
    data = calls[(calls["bytes"] > 0).fillna(False)]
    if data.empty:
        raise CannotTell(f"{trace.name}: no data was received")
    if data["copy_ns"].isna().all():
        raise CannotTell(f"{trace.name}: no probe of this backend sees the copy")
    return data


def waits(trace: Trace) -> pd.DataFrame:
    """Return the calls that ask about many descriptors and found some ready."""
    calls = trace.read(CALLS, ["call", "fd", "nfds", "ready", "check_ns"])
    return calls[calls["call"].isin(list(WAITING)) & (calls["ready"] > 0).fillna(False)]


def workload(trace: Trace, key: str) -> Any:
    """Return a number of the load generator. Raises CannotTell where it is absent."""
    value = (trace.meta.get("workload") or {}).get(key)
    if value is None:
        raise CannotTell(f"{trace.name}: the load generator gave no {key}")
    return value


def calls_per_request(trace: Trace) -> float:
    """Return the calls on the receive path per message, those that accept clients left out."""
    calls = trace.read(CALLS, ["call"])["call"].astype("string")
    return float((~calls.str.startswith("accept")).sum()) / max(count_requests(trace).count, 1)


def cpu_share(trace: Trace) -> float:
    """Return the share of the wall time that the server's threads spent on a CPU."""
    whole = ledger(trace)
    return whole.cpu_ns / max(whole.wall_ns, 1)


def cpu_per_request_ns(trace: Trace) -> float:
    """Return the CPU time of the server per message, in ns."""
    return ledger(trace).cpu_ns / max(count_requests(trace).count, 1)


def delivery_ns(trace: Trace) -> Floats:
    """Return how long each piece of data waited until it was copied, in ns, where known."""
    data = trace.read(DELIVERIES, ["ready_ns", "copied_ns"]).dropna()
    if data.empty:
        raise CannotTell(f"{trace.name}: no probe saw when data became ready")
    return (data["copied_ns"] - data["ready_ns"]).to_numpy(dtype=float)


def first_waits_ns(trace: Trace) -> Floats:
    """Return how long the first data of each connection waited until it was copied, in ns."""
    data = trace.read(DELIVERIES, ["socket", "ready_ns", "copied_ns"])
    first = data.sort_values("copied_ns", kind="stable").drop_duplicates("socket").dropna()
    if first.empty:
        raise CannotTell(f"{trace.name}: no probe saw when data became ready")
    return (first["copied_ns"] - first["ready_ns"]).to_numpy(dtype=float)


def main_thread(trace: Trace) -> int:
    """Return the thread that the experiment began with."""
    return int(trace.meta["targets"][0]["pid"])


def cpu_ratio(traces: Sequence[Trace], others: Sequence[Trace]) -> Estimate:
    """Return how many times the others' CPU time a request takes, from pairs of runs."""
    sides = ([cpu_per_request_ns(trace) for trace in side] for side in (traces, others))
    return paired_ratio(*sides)


def bounds_text(estimate: Estimate, text: Callable[[float], str] = number_text) -> str:
    """Return the bounds of an estimate in words, each written by ``text``."""
    if np.isnan(estimate.low):
        return "too few runs for an interval"
    return f"95 %: {text(estimate.low)} to {text(estimate.high)}"


def percent_text(value: float) -> str:
    """Return a share in per cent."""
    return f"{value:.1%}".replace(".0%", "%")


def pairs_text(estimate: Estimate, pairs: Sequence[object] | Iterable[object]) -> str:
    """Return the bounds of a ratio, and how many pairs of runs they come from."""
    return f"{bounds_text(estimate)}, {len(list(pairs))} pairs of runs"
