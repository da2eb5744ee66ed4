"""The figures of the page, each with its caption, as SVG that follows the page's colours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.copying import copy_by_size, copy_times
from analysis.figures.delivery import delivery_ecdf
from analysis.figures.phases import phases
from analysis.figures.scaling import cost_curve
from analysis.figures.sequence import request_sequences
from analysis.figures.style import svg
from analysis.figures.threads import thread_timeline
from analysis.load import Trace
from analysis.request_sequence import typical_request
from analysis.scaling import WAITING, scaling
from analysis.tables import labels

__all__ = ("HtmlFigure", "all_figures")

MAX_SEQUENCES = 12
MAX_TIMELINES = 6
"""Of more models the page shows the first: each figure is 20 to 100 kB."""
MIN_SIZES = 2


@dataclass(frozen=True)
class HtmlFigure:
    """A figure with what it shows; ``svg`` is an element of its own."""

    title: str
    caption: str
    svg: str


def _make(number: int, title: str, caption: str, figure: Figure) -> HtmlFigure:
    return HtmlFigure(title, caption, _own_ids(svg(figure), f"f{number}-"))


def _own_ids(text: str, prefix: str) -> str:
    """Prefix all ids, so that two figures on a page do not share clip paths and markers."""
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}", text)


def _drawings(
    traces: Sequence[Trace], summary: pd.DataFrame
) -> Iterator[tuple[str, str, Callable[[], Figure]]]:
    names = labels(summary)
    if summary["wall_ns"].gt(0).any():
        yield (
            "The phases per model",
            "Left: the wall time of the server's threads. Right: the time on a CPU per request.",
            lambda: phases(summary),
        )
    found = map(typical_request, traces[:MAX_SEQUENCES])
    sequences = [sequence for sequence in found if sequence is not None]
    if sequences:
        yield (
            "One real request, the way Stevens draws it",
            "The request whose delivery took the median time, from its trace. Time runs down; "
            "heights grow with the logarithm of time. The kernel tells how long each phase of a "
            "call was; their order within the call is the usual one.",
            lambda: request_sequences(sequences),
        )
    if summary["delivery_p50_ns"].notna().any():
        yield (
            "How long data waited",
            "From its arrival in the receive queue to the end of its copy into the process.",
            lambda: delivery_ecdf(traces, names),
        )
    points = scaling(traces, "descriptors", "check", calls=WAITING).dropna()
    if points.groupby("model")["x"].nunique().max() > 1:
        yield (
            "What asking costs against the number of descriptors",
            "Time in check per waiting call, each point a trace; straight lines, 95 % errors.",
            lambda: cost_curve(
                points,
                xlabel="open connections",
                ylabel="check per waiting call (ns)",
                title="What asking costs",
                unit="connection",
            ),
        )
    if len(copy_times(traces)) >= MIN_SIZES:
        cost = (traces[0].meta.get("resolution_ns") or {}).get("copy")
        yield (
            "Copy time against size",
            "Receives of all traces, put together in half octaves of their size.",
            lambda: copy_by_size(traces, resolution_ns=cost),
        )
    for trace, name in list(zip(traces, names, strict=True))[:MAX_TIMELINES]:
        yield (
            f"A timeline of the threads: {name}",
            "A stretch from the middle of the trace. White: outside the traced calls.",
            partial(thread_timeline, trace),
        )


def all_figures(traces: Sequence[Trace], summary: pd.DataFrame) -> list[HtmlFigure]:
    """Draw every figure for which the traces have the data."""
    return [
        _make(number, title, caption, draw())
        for number, (title, caption, draw) in enumerate(_drawings(traces, summary), 1)
    ]
