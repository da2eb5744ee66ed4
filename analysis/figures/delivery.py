"""Delivery latency as cumulative distributions, one curve per trace; many in several panels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import WIDTH, model_line, say_empty, styled
from analysis.load import Trace
from analysis.schema import DELIVERIES
from analysis.thread_calls import to_int

__all__ = ("delivery_ecdf",)

POINTS = 400
"""Points of a curve: more cannot be seen, and the page stays small."""
CURVES = 7
"""More curves in one panel cannot be told apart: there is a colour for each."""
PANELS_PER_ROW = 2
LEAST_HEIGHT = 3.4
"""Inches."""


@styled
def delivery_ecdf(
    traces: Sequence[Trace], names: Sequence[str], families: Sequence[str] | None = None
) -> Figure:
    """Draw the share of deliveries that took at most so long, from arrival to the copy's end.

    ``families`` puts the traces of one family into a panel of their own when one panel would not
    do for all.
    """
    waited = [_waited(trace) for trace in traces]
    panels = _panels([index for index, own in enumerate(waited) if len(own)], families)
    rows = max(math.ceil(len(panels) / PANELS_PER_ROW), 1)
    columns = max(min(len(panels), PANELS_PER_ROW), 1)
    figure = Figure(figsize=(WIDTH, max(2.4 * rows, LEAST_HEIGHT)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    heading = "Deliveries that took at most so long"
    figure.suptitle(heading, x=0.01, ha="left", fontsize=10, fontweight="bold")
    figure.supxlabel("time from arrival to the end of the copy (µs)", fontsize=9)
    for axes in grid[:, 0]:
        axes.set_ylabel("deliveries (%)")
    if not panels:
        say_empty(grid[0, 0], "no delivery was seen")
        return figure
    for axes, (title, members) in zip(grid.flat, panels.items(), strict=False):
        for place, index in enumerate(members):
            _curve(axes, waited[index], names[index], place)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0)
        axes.set_title(title, fontweight="normal")
        axes.grid()
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    grid[0, 0].set(xscale="log", ylim=(0, 101))
    return figure


def _panels(shown: Sequence[int], families: Sequence[str] | None) -> dict[str, list[int]]:
    """Return which traces stand together, by the title of their panel."""
    members: dict[str, list[int]] = {}
    apart = families is not None and len(shown) > CURVES
    for index in shown:
        members.setdefault(families[index] if families and apart else "", []).append(index)
    panels = {}
    for family, own in members.items():
        for begin in range(0, len(own), CURVES):
            more = f" ({begin // CURVES + 1})" if len(own) > CURVES else ""
            panels[f"{family}{more}"] = own[begin : begin + CURVES]
    return panels


def _waited(trace: Trace) -> npt.NDArray[np.int64]:
    """Return the times from arrival to the end of the copy, in ns."""
    data = trace.read(DELIVERIES, ["ready_ns", "copied_ns"]).dropna()
    return to_int(data["copied_ns"] - data["ready_ns"])


def _curve(axes: Axes, waited: npt.NDArray[np.int64], name: str, place: int) -> None:
    quantiles = np.concatenate([np.linspace(0, 0.99, POINTS), 1 - np.geomspace(0.01, 1e-3, 40)])
    # a logarithmic axis has no zero: what took less than the clock's step is drawn at it
    times = np.maximum(np.quantile(waited, quantiles), 1) / 1e3
    style = model_line(place) | {"marker": ""}
    axes.plot(times, quantiles * 100, label=f"{name} ({len(waited):,})", **style)
