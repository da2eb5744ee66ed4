"""The phases per model, as stacked bars: shares of the wall time, and CPU time of a request."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import PART_COLOURS, PART_NAMES, WIDTH, styled
from analysis.schema import CPU_PHASES
from analysis.summary import SHARES
from analysis.tables import labels
from analysis.units import number_text, share_text

__all__ = ("phases",)

_ON_CPU = ("user", "other_calls", *CPU_PHASES)
ROW_INCHES = 0.34
LABEL_FROM = 0.06
NARROW_LABEL_FROM = 0.1
"""Write a figure into a segment that takes at least this share of the left, the right axis."""


def _bars(axes: Axes, values: pd.DataFrame, parts: Sequence[str], whole: float) -> None:
    left = pd.Series(0.0, index=values.index)
    for part in parts:
        width = values[part].fillna(0.0)
        axes.barh(
            range(len(values)),
            width,
            left=left,
            height=0.72,
            color=PART_COLOURS[part],
            edgecolor="white",
            linewidth=0.4,
            label=PART_NAMES[part],
            hatch="////" if part == "off_cpu_elsewhere" else None,
        )
        least = whole * (LABEL_FROM if whole == 100 else NARROW_LABEL_FROM)
        for row, (size, begin) in enumerate(zip(width, left, strict=True)):
            if size >= least:
                dark = part in ("runq", "copy", "user")
                axes.text(
                    begin + size / 2,
                    row,
                    f"{size:.0f}" if whole == 100 else number_text(size),
                    ha="center",
                    va="center",
                    fontsize=7.5,
                    color="white" if dark else "black",
                )
        left += width


@styled
def phases(summary: pd.DataFrame) -> Figure:
    """Draw a bar per row of ``summarise``: left % of wall time, right CPU time per request (us)."""
    names = labels(summary)
    figure = Figure(figsize=(WIDTH, 1.5 + ROW_INCHES * len(summary)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])

    _bars(left, summary[list(SHARES)] * 100, SHARES, 100)
    left.set(xlim=(0, 100), xlabel="share of the threads' wall time (%)", title="Where time went")
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.4, -0.6)
    for row, copy in enumerate(summary["copy"]):
        left.annotate(
            f"copy {share_text(copy)} %",
            (100, row),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=PART_COLOURS["copy"],
        )

    per_request = summary[list(_ON_CPU)].mul(
        summary["wall_ns"] / summary["requests"].where(summary["requests"] > 0) / 1e3, axis="index"
    )
    widest = float(per_request.sum(axis="columns").max() or 1.0)
    _bars(right, per_request, _ON_CPU, widest)
    right.set(xlabel="CPU time per request (µs)", title="What a request cost")
    right.tick_params(left=False)
    for axes in (left, right):
        axes.grid(axis="x")
    handles, texts = left.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=5)
    return figure
