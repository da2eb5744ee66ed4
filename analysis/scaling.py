"""Cost against the number of descriptors, connections, or the size of a message."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.attribution import attribute
from analysis.fit import Crossing, Line, cross, fit_line
from analysis.load import Trace
from analysis.schema import CPU_PHASES, PHASES, WAIT_PHASES
from analysis.summary import count_requests
from analysis.totals import call_totals

__all__ = ("AGAINST", "WAITING", "crossings", "fits", "scaling")


def _connections(workload: Mapping[str, Any]) -> float:
    return float(workload["connections"])


def _descriptors(workload: Mapping[str, Any]) -> float:
    return float(workload["connections"] + (workload.get("idle") or 0))


def _size(workload: Mapping[str, Any]) -> float:
    # of several sizes the load draws each with the same chance
    return float(np.mean(workload["size"]))


AGAINST: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "descriptors": _descriptors,
    "connections": _connections,
    "size": _size,
}
"""What a cost can be laid against: open connections with the idle ones; busy ones; bytes."""


WAITING = frozenset(
    (
        *("select", "pselect6", "poll", "ppoll"),
        *("epoll_wait", "epoll_pwait", "epoll_pwait2"),
        *("io_getevents", "io_pgetevents", "io_uring_enter"),
    )
)
"""The calls that ask about many descriptors."""

_PARTS = {"wait": WAIT_PHASES, "cpu": CPU_PHASES}
_COSTS = (*PHASES, *_PARTS, "check_copy")


def _cost(trace: Trace, cost: str, per: str, calls: Collection[str] | None) -> float:
    if calls is None and cost != "check_copy":
        return float(attribute([trace], per=per)[f"{cost}_ns_per_{per}"].iloc[0])
    table = call_totals(trace, "call")
    chosen = table if calls is None else table[table["call"].isin(list(calls))]
    columns = [f"{phase}_ns" for phase in _PARTS.get(cost, (cost,))]
    below = {
        "call": int(chosen["calls"].sum()),
        "byte": int(table["bytes"].sum()),
        "request": count_requests(trace).count,
    }[per]
    if not below or chosen[columns].isna().all(axis=None):
        return float("nan")
    return int(chosen[columns].sum().sum()) / below


def scaling(
    traces: Iterable[Trace],
    against: str,
    cost: str = "check",
    *,
    per: str = "call",
    calls: Collection[str] | None = None,
) -> pd.DataFrame:
    """Return the points of a curve: one row per trace, ``model``, ``trace``, ``x``, ``y``.

    ``x`` is taken from the load that ran (``AGAINST``); ``y`` is ``cost`` (a phase, ``wait``,
    ``cpu`` or ``check_copy``) in ns per ``call``, ``request`` or ``byte``, of all calls, or only of
    those named in ``calls`` (``WAITING`` for select, poll, epoll and their kin). ``cpu`` is all
    time on a CPU of the threads, or that inside the named calls. A trace without a load is left
    out.
    """
    if against not in AGAINST:
        raise ValueError(f"against={against!r}: expected one of {', '.join(AGAINST)}")
    if cost not in _COSTS:
        raise ValueError(f"cost={cost!r}: expected one of {', '.join(_COSTS)}")
    if per not in ("call", "request", "byte"):
        raise ValueError(f"per={per!r}: expected call, request or byte")
    rows = [
        {
            "model": trace.model or trace.name,
            "trace": trace.name,
            "x": AGAINST[against](trace.meta["workload"]),
            "y": _cost(trace, cost, per, calls),
        }
        for trace in traces
        if trace.meta.get("workload")
    ]
    frame = pd.DataFrame(rows, columns=["model", "trace", "x", "y"])
    return frame.sort_values(["model", "x"], kind="stable", ignore_index=True)


def fits(points: pd.DataFrame) -> dict[str, Line]:
    """Fit a line per model through the points of ``scaling``; a model with one x has none."""
    known = points.dropna(subset=["x", "y"])
    return {
        str(model): fit_line(own["x"].to_numpy(float), own["y"].to_numpy(float))
        for model, own in known.groupby("model", sort=False)
        if own["x"].nunique() > 1
    }


def crossings(lines: Mapping[str, Line]) -> dict[tuple[str, str], Crossing]:
    """Return where each two models cost the same, for the pairs that cross at all."""
    names = list(lines)
    found = {
        (first, second): cross(lines[first], lines[second])
        for index, first in enumerate(names)
        for second in names[index + 1 :]
    }
    return {pair: crossing for pair, crossing in found.items() if not np.isnan(crossing.x)}
