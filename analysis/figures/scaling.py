"""Cost against descriptors, connections or size: points, fitted lines, and what one more costs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.style import WIDTH, model_line, say_empty, styled
from analysis.fit import Line, t95
from analysis.scaling import fits

__all__ = ("cost_curve",)

SAMPLES = 100


def _legend(model: str, line: Line | None, unit: str) -> str:
    if line is None:
        return model
    if np.isnan(line.slope_error):
        return f"{model}: {line.slope:.3g} ns per {unit}"
    reach = t95(line.points - 2) * line.slope_error
    return f"{model}: {line.slope:.3g} ± {reach:.2g} ns per {unit}"


@styled
def cost_curve(points: pd.DataFrame, *, xlabel: str, ylabel: str, title: str, unit: str) -> Figure:
    """Draw the points of ``scaling`` on logarithmic axes, a straight line through each model.

    ``unit`` is what the slope is per (``descriptor``, ``byte``); errors are 95 %.
    """
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    lines = fits(points)
    for index, (model, own) in enumerate(points.dropna().groupby("model", sort=False)):
        style = model_line(index)
        line = lines.get(str(model))
        axes.plot(
            own["x"],
            own["y"],
            color=style["color"],
            marker=style["marker"],
            linestyle="none",
            label=_legend(str(model), line, unit),
        )
        if line is not None:
            x = np.geomspace(own["x"].min(), own["x"].max(), SAMPLES)
            y = line.intercept + line.slope * x
            axes.plot(x[y > 0], y[y > 0], **style | {"marker": ""})
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if not axes.lines:
        say_empty(axes, "no point was measured")
        return figure
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(which="major")
    axes.legend()
    return figure
