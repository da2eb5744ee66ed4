"""A timeline of threads: what each did in a short stretch of the trace, and when data arrived."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.figures.style import INK, PART_COLOURS, PART_NAMES, WIDTH, styled
from analysis.load import Trace
from analysis.phase_slices import PHASE_ORDER, slices
from analysis.schema import CALLS, DELIVERIES, PHASE_COLUMNS
from analysis.thread_calls import to_int

__all__ = ("thread_timeline",)

MAX_THREADS = 16
MAX_CALLS = 80
"""Calls in the stretch that is drawn: with more a bar is thinner than a line."""


def _window(calls: pd.DataFrame) -> tuple[int, int]:
    """Return a stretch from the middle of the trace that holds at most MAX_CALLS calls."""
    begins = np.sort(to_int(calls["ts_ns"]))
    first = max(len(begins) // 2 - MAX_CALLS // 2, 0)
    chosen = begins[first : first + MAX_CALLS]
    return int(chosen[0]), int(chosen[-1]) + 1


@styled
def thread_timeline(trace: Trace, window_ns: tuple[int, int] | None = None) -> Figure:
    """Draw the calls of the busiest threads by phase, in ``window_ns`` or mid-trace.

    What is white is outside traced calls: user code, other system calls, off the CPU elsewhere.
    Within a call the order of the phases is the usual one; the kernel tells their sums.
    """
    calls = trace.read(CALLS, ["ts_ns", "duration_ns", "tid", "comm", *PHASE_COLUMNS])
    figure = Figure(figsize=(WIDTH, 1.6), layout="constrained")
    axes = figure.subplots()
    if calls.empty:
        axes.set_title("no calls in this trace")
        return figure
    begin, end = window_ns or _window(calls)
    inside = (calls["ts_ns"] < end) & (calls["ts_ns"] + calls["duration_ns"] > begin)
    chosen = calls[inside]
    busiest = chosen["tid"].value_counts().head(MAX_THREADS).index
    tids = sorted(map(int, busiest))
    figure.set_size_inches(WIDTH, 1.5 + 0.32 * len(tids))
    pieces = slices(chosen[chosen["tid"].isin(tids)])
    shown = pieces[(pieces["end_ns"] > begin) & (pieces["begin_ns"] < end)]
    for group, own in shown.groupby(["tid", "phase"], observed=True):
        tid, phase = map(str, group)
        starts = (own["begin_ns"].clip(lower=begin) - begin) / 1e6
        widths = (own["end_ns"].clip(upper=end) - begin) / 1e6 - starts
        axes.broken_barh(
            list(zip(starts, widths, strict=True)),
            (tids.index(int(tid)) - 0.36, 0.72),
            facecolors=PART_COLOURS[phase],
        )
    data = trace.read(DELIVERIES, ["tid", "ready_ns"]).dropna()
    data = data[data["tid"].isin(tids) & data["ready_ns"].between(begin, end)]
    axes.plot(
        (to_int(data["ready_ns"]) - begin) / 1e6,
        [tids.index(int(tid)) - 0.44 for tid in data["tid"]],
        linestyle="none",
        marker="v",
        markersize=3.5,
        color=INK,
        label="data arrives",
    )
    names = chosen.drop_duplicates("tid").set_index("tid")["comm"].astype("str")
    axes.set_yticks(range(len(tids)), [f"{names[tid]} {tid}" for tid in tids])
    axes.set(xlim=(0, (end - begin) / 1e6), xlabel="time (ms)", ylim=(len(tids) - 0.4, -0.7))
    axes.set_title(f"What the threads did, {(end - begin) / 1e6:.3g} ms of {trace.name}")
    handles = [Patch(color=PART_COLOURS[phase], label=PART_NAMES[phase]) for phase in PHASE_ORDER]
    figure.legend(
        handles=[*handles, *axes.get_legend_handles_labels()[0]],
        loc="outside lower center",
        ncols=len(handles) + 1,
    )
    return figure
