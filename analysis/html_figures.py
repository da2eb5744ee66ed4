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
from analysis.memcpy import memcpy_times
from analysis.request_sequence import typical_request
from analysis.scaling import WAITING, scaling
from analysis.tables import labels

__all__ = ("HtmlFigure", "all_figures")

MAX_SEQUENCES = 30
MAX_TIMELINES = 6
"""Of more traces the page shows the first: a timeline is 20 to 100 kB."""
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
    found = zip(names, map(typical_request, traces[:MAX_SEQUENCES]), strict=False)
    sequences = {name: sequence for name, sequence in found if sequence is not None}
    if sequences:
        yield (
            "One real request, the way Stevens draws it",
            "The request whose delivery took the median time, from its trace. Time runs down; "
            "heights grow with the logarithm of time. The kernel tells how long each phase of a "
            "call was; their order within the call is the usual one.",
            lambda: request_sequences(list(sequences.values()), list(sequences)),
        )
    if summary["delivery_p50_ns"].notna().any():
        yield (
            "How long data waited",
            "From its arrival in the receive queue to the end of its copy into the process.",
            lambda: delivery_ecdf(traces, names, list(summary["family"].fillna(""))),
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
    sizes = [int(size) for size in copy_times(traces)["bytes"]]
    if len(sizes) >= MIN_SIZES:
        cost = (traces[0].meta.get("resolution_ns") or {}).get("copy")
        yield (
            "Copy time against size",
            "Receives of all traces, put together in half octaves of their size. memcpy: the same"
            " size within the cache, on the machine that made this page.",
            lambda: copy_by_size(traces, memcpy_ns=memcpy_times(sizes), resolution_ns=cost),
        )
    which = f" The first {MAX_TIMELINES} traces have one." if len(traces) > MAX_TIMELINES else ""
    for trace, name in list(zip(traces, names, strict=True))[:MAX_TIMELINES]:
        yield (
            f"A timeline of the threads: {name}",
            f"A stretch from the middle of the trace. White: outside the traced calls.{which}",
            partial(thread_timeline, trace),
        )


def all_figures(traces: Sequence[Trace], summary: pd.DataFrame) -> list[HtmlFigure]:
    """Draw every figure for which the traces have the data."""
    return [
        _make(number, title, caption, draw())
        for number, (title, caption, draw) in enumerate(_drawings(traces, summary), 1)
    ]
