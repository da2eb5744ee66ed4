"""Delivery latency as cumulative distributions, one curve per trace."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from analysis.figures.style import model_line, say_empty, styled
from analysis.load import Trace
from analysis.schema import DELIVERIES
from analysis.thread_calls import to_int

__all__ = ("delivery_ecdf",)

POINTS = 400
"""Points of a curve: more cannot be seen, and the page stays small."""


@styled
def delivery_ecdf(traces: Sequence[Trace], names: Sequence[str]) -> Figure:
    """Draw the share of deliveries that took at most so long, from arrival to the copy's end."""
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.subplots()
    quantiles = np.concatenate([np.linspace(0, 0.99, POINTS), 1 - np.geomspace(0.01, 1e-3, 40)])
    for index, (trace, name) in enumerate(zip(traces, names, strict=True)):
        data = trace.read(DELIVERIES, ["ready_ns", "copied_ns"]).dropna()
        if data.empty:
            continue
        took = to_int(data["copied_ns"] - data["ready_ns"])
        style = model_line(index) | {"marker": ""}
        # a logarithmic axis has no zero: what took less than the clock's step is drawn at it
        times = np.maximum(np.quantile(took, quantiles), 1) / 1e3
        axes.plot(times, quantiles * 100, label=f"{name} ({len(took):,})", **style)
    axes.set(
        xlabel="time from arrival to the end of the copy (µs)",
        ylabel="deliveries that took at most so long (%)",
        ylim=(0, 101),
        title="How long data waited",
    )
    if not axes.lines:
        say_empty(axes, "no delivery was seen")
        return figure
    axes.set_xscale("log")
    axes.grid()
    figure.legend(loc="outside right upper")
    return figure
