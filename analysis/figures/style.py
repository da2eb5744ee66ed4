"""The one style of all figures: sizes, lines, and colours that colour-blind readers tell apart."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = (
    "INK",
    "MUTED",
    "PART_COLOURS",
    "PART_NAMES",
    "WIDTH",
    "model_line",
    "png",
    "say_empty",
    "styled",
    "svg",
)

INK = "#1a1a1b"
"""Text and axes; the page replaces it by its own ink, so that a figure follows light and dark."""
MUTED = "#8a8a8b"
"""Grids and notes."""

# After Okabe and Ito, Color Universal Design (2008): blues wait off the CPU, yellow and orange wait
# on it, vermilion copies, the rest is neither. Neighbours differ in lightness, too: to readers who
# do not see green, it is as grey as grey and pink.
PART_COLOURS = {
    "sleep": "#a6d4f2",
    "runq": "#0072b2",
    "spin": "#e69f00",
    "check": "#f0e442",
    "copy": "#d55e00",
    "overhead": "#b4b4b4",
    "user": "#00593f",
    "other_calls": "#e2a9c8",
    "off_cpu_elsewhere": "#dddddd",
}
PART_NAMES = {
    "sleep": "sleep",
    "runq": "runq",
    "spin": "spin",
    "check": "check",
    "copy": "copy",
    "overhead": "overhead",
    "user": "user",
    "other_calls": "other calls",
    "off_cpu_elsewhere": "off CPU elsewhere",
}

_LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c5c5c")
_LINE_STYLES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_SETTINGS: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": MUTED,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "iophase",
}

WIDTH = 9.2
"""Inches, of every figure: so that the page shows the text of all of them in one size."""
PNG_DPI = 144

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Make a function draw in this style."""

    @wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(_SETTINGS):
            return draw(*args, **kwargs)

    return inner


def say_empty(axes: Axes, reason: str) -> None:
    """Say in the place of a curve why there is none: a logarithmic axis cannot be empty."""
    axes.text(0.5, 0.5, reason, ha="center", va="center", transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def model_line(index: int) -> dict[str, Any]:
    """Return colour, dashes and marker of the model at ``index``: no two of 28 look the same."""
    turn, colour = divmod(index, len(_LINE_COLOURS))
    return {
        "color": _LINE_COLOURS[colour],
        "linestyle": _LINE_STYLES[(colour + turn) % len(_LINE_STYLES)],
        "marker": _MARKERS[(colour + turn) % len(_MARKERS)],
    }


def svg(figure: Figure) -> str:
    """Return the figure as an ``<svg>`` element whose ink is the page's (``currentColor``)."""
    with mpl.rc_context(_SETTINGS):
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    return text.replace(INK, "currentColor")


def png(figure: Figure) -> bytes:
    """Return the figure as PNG on white."""
    with mpl.rc_context(_SETTINGS):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=PNG_DPI, bbox_inches="tight", facecolor="white")
    return buffer.getvalue()
