"""One line per trace: where the server's wall time went, and what a request cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.ledger import LEDGER_COLUMNS, ledger
from analysis.load import Trace
from analysis.resolution import below_resolution
from analysis.schema import CONNECTIONS, DELIVERIES

__all__ = ("SHARES", "Requests", "count_requests", "partly_kept", "partly_seen", "summarise")

SHARES = tuple(column.removesuffix("_ns") for column in LEDGER_COLUMNS)
"""The parts of the summed wall time of all threads, as the summary names them."""

NANOSECONDS_PER_SECOND = 1e9
SEEN = 0.5
"""Fewer deliveries per request than this, and a part of the server was not seen: one receive takes
several messages at most now and then."""


@dataclass(frozen=True)
class Requests:
    """How many requests a trace served, and who counted them.

    ``counted_by`` is ``load`` (the load generator) or ``deliveries`` (arrivals of data in the
    trace, for a recording of a real program).
    """

    count: int
    per_second: float | None
    counted_by: str


def count_requests(trace: Trace) -> Requests:
    """Return the requests of ``trace``: the load generator's count, else the deliveries."""
    workload = trace.meta.get("workload")
    if isinstance(workload, Mapping) and workload.get("messages") is not None:
        per_second = workload.get("requests_per_s")
        return Requests(
            int(workload["messages"]), None if per_second is None else float(per_second), "load"
        )
    if trace.meta.get("summary"):
        count = int(trace.read(CONNECTIONS, ["deliveries"])["deliveries"].sum())
    else:
        count = len(trace.read(DELIVERIES, ["tid"]))
    started, stopped = trace.meta.get("started"), trace.meta.get("stopped")
    if started is None or stopped is None or stopped <= started:
        return Requests(count, None, "deliveries")
    return Requests(count, count * NANOSECONDS_PER_SECOND / (stopped - started), "deliveries")


def partly_kept(trace: Trace) -> bool:
    """Tell whether rows were left out by the user's wish: what they count is not all there was."""
    return bool(trace.meta.get("left_out")) and not trace.meta.get("summary")


def partly_seen(summary: pd.DataFrame) -> pd.Series:
    """Tell of which traces the probes saw too few deliveries for the requests that were served."""
    few = (summary["deliveries"] < SEEN * summary["requests"]).fillna(False)
    return few & ~summary["cut_short"]


def _quantiles(values: pd.Series) -> tuple[float | None, float | None]:
    known = values.dropna()
    if known.empty:
        return None, None
    p50, p99 = known.astype("int64").quantile([0.5, 0.99])
    return float(p50), float(p99)


def _per(total: float | None, count: int | None) -> float | None:
    return total / count if total is not None and count else None


def _row(trace: Trace, family: str | None) -> dict[str, Any]:
    whole = ledger(trace)
    requests = count_requests(trace)
    deliveries = trace.read(DELIVERIES, ["ready_ns", "copied_ns"])
    p50, p99 = _quantiles(deliveries["copied_ns"] - deliveries["ready_ns"])
    wall = whole.wall_ns
    counted = None if partly_kept(trace) and requests.counted_by != "load" else requests.count
    return {
        "trace": trace.name,
        "directory": trace.directory,
        "model": trace.model,
        "family": family,
        "threads": whole.threads,
        "requests": counted,
        "requests_per_s": None if counted is None else requests.per_second,
        "counted_by": requests.counted_by,
        "wall_ns": wall,
        **{
            share: _per(whole.parts[column], wall)
            for share, column in zip(SHARES, LEDGER_COLUMNS, strict=True)
        },
        "wait": _per(whole.wait_ns, wall),
        "cpu_per_request_ns": _per(whole.cpu_ns, counted),
        "calls_per_request": _per(whole.calls, counted),
        "bytes": whole.bytes,
        "delivery_p50_ns": p50,
        "delivery_p99_ns": p99,
        "deliveries": requests.count if trace.meta.get("summary") else len(deliveries),
        "emitted": trace.emitted,
        "lost": trace.lost,
        "below_resolution": below_resolution(trace),
        "backend": trace.meta["backend"],
        "kernel": trace.meta["kernel"],
        "cut_short": trace.cut_short,
    }


def summarise(traces: Iterable[Trace], families: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return one row per trace.

    Shares (``sleep`` ... ``off_cpu_elsewhere``, and ``wait`` = sleep + runq + spin + check) are of
    the summed wall time of all threads; a part that no probe measured is ``NaN``, a phase too short
    for the probes is named in ``below_resolution``. Times are nanoseconds; ``delivery_*`` run from
    an arrival in the receive queue to the end of its copy. ``families`` maps a model to the family
    it is listed under.
    """
    rows = [_row(trace, (families or {}).get(trace.model or "")) for trace in traces]
    frame = pd.DataFrame(rows)
    figures = [*SHARES, "wait", "requests_per_s", "cpu_per_request_ns", "calls_per_request"]
    types = dict.fromkeys([*figures, "delivery_p50_ns", "delivery_p99_ns"], "float64")
    return frame.astype(types | dict.fromkeys(["requests", "emitted", "lost"], "Int64"))
