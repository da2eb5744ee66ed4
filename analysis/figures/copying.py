"""Copy time against the size of a receive, beside a memcpy of the same size."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from analysis.figures.style import MUTED, WIDTH, model_line, say_empty, styled
from analysis.load import Trace
from analysis.schema import CALLS
from analysis.units import bytes_text, time_text

__all__ = ("copy_by_size", "copy_times")

MIN_RECEIVES = 5
"""Fewer receives of one size make no median worth drawing."""
BUCKETS_PER_OCTAVE = 2


def copy_times(traces: Sequence[Trace]) -> pd.DataFrame:
    """Return the copy time of receives by size: ``bytes``, ``receives``, ``p10`` to ``p90`` (ns).

    Sizes are put together in half octaves; ``bytes`` is their median. Empty if no copy is known.
    """
    parts = []
    for trace in traces:
        calls = trace.read(CALLS, ["bytes", "copy_ns"])
        parts.append(calls[(calls["bytes"] > 0) & (calls["copy_ns"] > 0)].astype("int64"))
    known = pd.concat(parts, ignore_index=True)
    octave = np.round(np.log2(known["bytes"].to_numpy(float)) * BUCKETS_PER_OCTAVE)
    grouped = known.groupby(octave)
    quantiles = grouped["copy_ns"].quantile(np.array([0.1, 0.5, 0.9])).unstack()
    table = pd.DataFrame(
        {
            "bytes": grouped["bytes"].median(),
            "receives": grouped.size(),
            "p10": quantiles.get(0.1),
            "p50": quantiles.get(0.5),
            "p90": quantiles.get(0.9),
        }
    )
    return table[table["receives"] >= MIN_RECEIVES].reset_index(drop=True)


def _short(text: str) -> str:
    """Write a round number of a scale without its zeros."""
    return re.sub(r"\.0+ ", " ", text).replace("us", "µs")


@styled
def copy_by_size(
    traces: Sequence[Trace],
    *,
    memcpy_ns: Mapping[int, float] | None = None,
    resolution_ns: float | None = None,
) -> Figure:
    """Draw the median copy time by size, its middle 80 %, and a memcpy beside it (size: ns)."""
    table = copy_times(traces).astype("float64")
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="bytes of one receive", ylabel="copy time", title="What a copy costs")
    if table.empty:
        say_empty(axes, "no copy was measured")
        return figure
    style = model_line(1)
    axes.fill_between(
        table["bytes"], table["p10"], table["p90"], color=style["color"], alpha=0.2, linewidth=0
    )
    axes.plot(table["bytes"], table["p50"], label="kernel to process, median and 80 %", **style)
    if memcpy_ns:
        sizes = sorted(size for size, cost in memcpy_ns.items() if cost > 0)
        axes.plot(sizes, [memcpy_ns[size] for size in sizes], label="memcpy", **model_line(0))
    if resolution_ns:
        axes.axhline(resolution_ns, color=MUTED, linewidth=1, linestyle=":")
        axes.annotate(
            "resolution of the probes",
            (1, resolution_ns),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            fontsize=7.5,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    # a memcpy that fits into a cache line is far below what the probes can see
    axes.set_ylim(bottom=min(table["p10"].min(), resolution_ns or np.inf) / 2)
    axes.xaxis.set_major_formatter(lambda size, _: _short(bytes_text(size)))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda cost, _: _short(time_text(cost)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid()
    axes.legend()
    return figure
