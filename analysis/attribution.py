"""Wait versus copy: where the time went, per model, call, context, thread or connection.

Traces of one model are repetitions of one experiment: they are pooled, and bootstrapped over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.bootstrap import ratio_intervals
from analysis.ledger import LEDGER_COLUMNS, ledger
from analysis.load import Trace
from analysis.schema import CPU_PHASES, PHASE_COLUMNS, WAIT_PHASES
from analysis.summary import count_requests
from analysis.totals import GROUPS, call_totals

__all__ = ("PER", "attribute")

PER = {
    "wall": "share",
    "call": "ns_per_call",
    "request": "ns_per_request",
    "byte": "ns_per_byte",
    "connection": "ns_per_connection",
    "trace": "ns_per_trace",
}
"""What a time can be divided by, and the suffix of the columns that result."""

_WAIT = [f"{phase}_ns" for phase in WAIT_PHASES]
_CALL_CPU = [f"{phase}_ns" for phase in CPU_PHASES]
_COUNTS = ("calls", "bytes")


@dataclass(frozen=True)
class _Part:
    """The sums of one trace: ``table`` has a row per group; the rest is of the whole trace."""

    table: pd.DataFrame
    wall_ns: int
    requests: int
    connections: int


def _parts_of_threads(trace: Trace) -> pd.DataFrame:
    whole = ledger(trace)
    row: dict[str, int | None] = {"calls": whole.calls, "bytes": whole.bytes, **whole.parts}
    table = pd.DataFrame([row]).astype("Float64")
    table["cpu_ns"] = float(whole.cpu_ns)
    return table


def _measure(trace: Trace, by: str, per: str) -> _Part:
    if by == "model":
        table = _parts_of_threads(trace)
    else:
        table = call_totals(trace, by)
        table["cpu_ns"] = table[_CALL_CPU].sum(axis="columns")
    table["wait_ns"] = table[_WAIT].sum(axis="columns")
    connections = 0
    if per == "connection":
        sockets = call_totals(trace, "connection")
        connections = int((sockets["socket"].notna() & (sockets["receives"] > 0)).sum())
    wall = int(trace.threads["wall_ns"].sum())
    return _Part(table, wall, count_requests(trace).count, connections)


def _time_columns(by: str) -> list[str]:
    outside = [name for name in LEDGER_COLUMNS if name not in PHASE_COLUMNS]
    return ["wait_ns", *PHASE_COLUMNS, *(outside if by == "model" else []), "cpu_ns"]


def _matrix(parts: Sequence[_Part], keys: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Stack the repetitions: one row per (group, repetition), zero where a group was absent."""
    stacked = pd.concat([part.table.assign(unit=unit) for unit, part in enumerate(parts)])
    group = stacked.groupby(list(keys), dropna=False, sort=False).ngroup() if keys else 0
    stacked = stacked.assign(group=group)
    full = pd.MultiIndex.from_product(
        [sorted(stacked["group"].unique()), range(len(parts))], names=["group", "unit"]
    )
    values = stacked.set_index(["group", "unit"])[list(columns)].astype("float64")
    unmeasured = values.isna().all()
    filled = values.fillna(0.0).reindex(full, fill_value=0.0)
    filled.loc[:, unmeasured] = np.nan
    return filled


def _denominator(parts: Sequence[_Part], rows: pd.DataFrame, per: str) -> npt.NDArray[np.float64]:
    if per == "call":
        return rows["calls"].to_numpy()
    if per == "trace":
        return np.ones(len(parts))
    if per == "byte":
        return np.array([float(part.table["bytes"].sum()) for part in parts])
    whole = {"wall": "wall_ns", "request": "requests", "connection": "connections"}[per]
    return np.array([float(getattr(part, whole)) for part in parts])


def _attribute_model(traces: Sequence[Trace], by: str, per: str) -> pd.DataFrame:
    keys = GROUPS[by]
    parts = [_measure(trace, by, per) for trace in traces]
    times = _time_columns(by)
    matrix = _matrix(parts, keys, [*_COUNTS, *times])
    stacked = pd.concat([part.table for part in parts])
    labels = stacked[list(keys)].drop_duplicates().to_dict("records") if keys else [{}]
    lines = []
    for (_, rows), label in zip(matrix.groupby(level="group"), labels, strict=True):
        below = _denominator(parts, rows, per)
        values = rows[times].to_numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            middle = values.sum(axis=0) / below.sum()
        low, high = ratio_intervals(values, below)
        line = {**label, "traces": len(traces)}
        line |= {count: int(rows[count].sum()) for count in _COUNTS}
        for index, time in enumerate(times):
            name = f"{time.removesuffix('_ns')}_{PER[per]}"
            line[name] = middle[index] if np.isfinite(middle[index]) else np.nan
            line[f"{name}_low"], line[f"{name}_high"] = low[index], high[index]
        lines.append(line)
    return pd.DataFrame(lines)


def attribute(traces: Iterable[Trace], *, by: str = "model", per: str = "wall") -> pd.DataFrame:
    """Return where the time went, one row per model and group.

    ``by`` is one of ``model``, ``call``, ``context``, ``thread``, ``connection``; ``per`` one of
    ``wall`` (shares of the summed wall time of all threads), ``call`` (of the group), ``request``,
    ``byte``, ``connection``, ``trace`` (absolute times). Columns: ``model``, the group's key,
    ``traces``, ``calls``, ``bytes``, then for wait, the six phases, cpu and, by model, user,
    other_calls and off_cpu_elsewhere:
    ``<part>_<unit>`` with its 95 % bounds ``..._low`` and ``..._high`` over repetitions of the
    model (NaN below three). ``cpu`` is all time on a CPU by model, that inside calls otherwise. A
    phase that nothing measured is NaN.
    """
    if by not in GROUPS:
        raise ValueError(f"by={by!r}: expected one of {', '.join(GROUPS)}")
    if per not in PER:
        raise ValueError(f"per={per!r}: expected one of {', '.join(PER)}")
    models: dict[str, list[Trace]] = {}
    for trace in traces:
        models.setdefault(trace.model or trace.name, []).append(trace)
    frames = [_attribute_model(own, by, per).assign(model=model) for model, own in models.items()]
    if not frames:
        return pd.DataFrame()
    whole = pd.concat(frames, ignore_index=True)
    return whole[["model", *(column for column in whole.columns if column != "model")]]
