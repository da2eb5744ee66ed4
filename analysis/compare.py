"""Two traces, or two sets of repetitions, side by side: what changed, and is it more than noise?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.bootstrap import CONFIDENCE, MIN_UNITS, resampling_weights
from analysis.load import Trace
from analysis.schema import CALLS, DELIVERIES, PHASE_COLUMNS, WAIT_PHASES
from analysis.thread_calls import to_int
from analysis.units import sizes_text

__all__ = ("SLICES", "compare", "warnings")

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SLICES = 20
"""Stretches that a single trace is cut into when there are no repetitions, all with equally many
receives: long enough to be nearly independent, many enough to see how much they differ."""

_SUMS = ("calls", "receives", "bytes", "wait_ns", *PHASE_COLUMNS, "delivery_ns", "deliveries")

_RATIOS = {
    "calls_per_receive": ("calls", "receives"),
    **{
        f"{part}_ns_per_receive": (f"{part}_ns", "receives")
        for part in ("wait", *(column.removesuffix("_ns") for column in PHASE_COLUMNS))
    },
    "copy_ns_per_byte": ("copy_ns", "bytes"),
    "delivery_ns": ("delivery_ns", "deliveries"),
}
"""What is compared: sums over calls and deliveries, divided; a receive is a call with data."""


def _edges(calls: pd.DataFrame, slices: int) -> Ints:
    """Return the instants that cut a trace into stretches with equally many receives."""
    ends = to_int(calls["ts_ns"] + calls.pop("duration_ns"))
    receiving = np.sort(ends[to_int(calls["bytes"]) > 0])
    if not len(receiving):
        return np.empty(0, dtype=np.int64)
    places = np.linspace(0, len(receiving), slices + 1)[1:-1].astype(int)
    return np.unique(receiving[places[places > 0] - 1])


def _sums_per_slice(trace: Trace, slices: int) -> Floats:
    """Return the sums of a trace in stretches of time, shape (slices or fewer, len(_SUMS))."""
    calls = trace.read(CALLS, ["ts_ns", "duration_ns", "bytes", *PHASE_COLUMNS]).copy()
    data = trace.read(DELIVERIES, ["ready_ns", "copied_ns"]).dropna()
    edges = _edges(calls, slices)
    values = calls.assign(
        calls=1,
        receives=(calls["bytes"] > 0).fillna(False).astype("Int64"),
        wait_ns=calls[[f"{phase}_ns" for phase in WAIT_PHASES]].sum(axis="columns"),
    )
    first = values.groupby(np.searchsorted(edges, to_int(calls["ts_ns"])))[list(_SUMS[:-2])].sum()
    delivered = pd.DataFrame({"delivery_ns": data["copied_ns"] - data["ready_ns"], "deliveries": 1})
    second = delivered.groupby(np.searchsorted(edges, to_int(data["copied_ns"]))).sum()
    whole = first.join(second, how="outer").reindex(range(len(edges) + 1))[list(_SUMS)]
    unmeasured = [column for column in PHASE_COLUMNS if calls[column].isna().all()]
    matrix = whole.astype("Float64").fillna(0.0)
    matrix[unmeasured] = np.nan
    return matrix.to_numpy(dtype=float, na_value=np.nan)


def _units(traces: Sequence[Trace], repeated: bool) -> Floats:
    if repeated:
        return np.vstack([_sums_per_slice(trace, 1) for trace in traces])
    return np.vstack([_sums_per_slice(trace, SLICES) for trace in traces])


def _ratios(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = [
            sums[..., _SUMS.index(above)] / sums[..., _SUMS.index(below)]
            for above, below in _RATIOS.values()
        ]
    values = np.stack(columns, axis=-1)
    values[~np.isfinite(values)] = np.nan
    return values


def compare(before: Sequence[Trace], after: Sequence[Trace]) -> pd.DataFrame:
    """Return one row per figure: ``before``, ``after``, their difference and whether it is real.

    Columns: ``figure``, ``before``, ``after``, ``difference``, ``low`` and ``high`` (95 % bootstrap
    bounds of the difference), ``ratio``, ``changed`` (the bounds exclude zero; NA when there are
    none), ``noise``: ``repetitions`` when each side has three traces or more, else ``slices`` of
    time within the traces, which do not see what differs from run to run.
    """
    repeated = min(len(before), len(after)) >= MIN_UNITS
    sides = [_units(traces, repeated) for traces in (before, after)]
    middle = [_ratios(units.sum(axis=0)) for units in sides]
    drawn = [
        _ratios(resampling_weights(len(units), seed=seed) @ units)
        for seed, units in enumerate(sides, start=1)
    ]
    differences = drawn[1] - drawn[0]
    tail = (1 - CONFIDENCE) / 2 * 100
    rows = []
    for index, figure in enumerate(_RATIOS):
        spread = differences[:, index]
        known = spread[~np.isnan(spread)]
        enough = min(map(len, sides)) >= MIN_UNITS and len(known) > len(spread) / 2
        low, high = np.percentile(known, [tail, 100 - tail]) if enough else (np.nan, np.nan)
        old, new = float(middle[0][index]), float(middle[1][index])
        rows.append(
            {
                "figure": figure,
                "before": old,
                "after": new,
                "difference": new - old,
                "low": float(low),
                "high": float(high),
                "ratio": new / old if old else np.nan,
                "changed": bool(low > 0 or high < 0) if enough else pd.NA,
                "noise": "repetitions" if repeated else "slices",
            }
        )
    return pd.DataFrame(rows).astype({"changed": "boolean"})


def warnings(traces: Sequence[Trace]) -> Iterator[str]:
    """Say why traces may not be comparable: backend, kernel, machine, load, losses."""
    for key, name in (("backend", "backends"), ("kernel", "kernels"), ("arch", "architectures")):
        values = sorted({str(trace.meta.get(key)) for trace in traces})
        if len(values) > 1:
            yield f"different {name}: {', '.join(values)}"
    loads = {_load_of(trace) for trace in traces}
    if len(loads) > 1:
        yield "different loads: " + "; ".join(sorted(loads))
    for trace in traces:
        if trace.lost:
            yield f"{trace.name} lost {trace.lost:,} of {trace.emitted or trace.lost:,} events"
        if trace.cut_short:
            yield f"{trace.name} was cut short"


def _load_of(trace: Trace) -> str:
    workload = trace.meta.get("workload")
    if not workload:
        return "none known"
    return (
        f"{workload['connections']} connections, {workload.get('idle') or 0} idle, "
        f"{sizes_text(workload['size'])} B, rate {workload.get('rate') or 'closed loop'}"
    )
