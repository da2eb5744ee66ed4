"""One real request per model, application and kernel side by side, time running down.

Stevens' figures 6.1 to 6.5, measured. A wait is often ten thousand times longer than a copy, so
heights grow with the logarithm of time, and every part says how long it took.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from analysis.figures.style import INK, MUTED, PART_COLOURS, PART_NAMES, WIDTH, styled
from analysis.phase_slices import PHASE_ORDER
from analysis.request_sequence import RequestSequence, Step
from analysis.units import time_text

__all__ = ("request_sequences",)

APPLICATION, KERNEL = 0.14, 0.68
"""Where the two columns stand, in widths of a panel."""
HALF = 0.11
PANELS_PER_ROW = 3
KERNEL_THREADS = ("iou-wrk", "iou-sqp")
"""Contexts that the application does not call: they work on their own."""
GAP_PHASE = "user"
SMALLEST_NS = 100.0
"""A part of this length, or shorter, has the least height."""
LEAST_HEIGHT = 1.0
HEIGHT_PER_DECADE = 0.55
INCHES_PER_HEIGHT = 0.17
TITLE_INCHES = 0.5
ABOVE, BELOW = 2.2, 1.0
"""Room above and below a sequence, in heights."""

_RESULTS = {
    **dict.fromkeys(("select", "pselect", "poll", "ppoll", "epoll"), "{} ready"),
    "rt_sigtimedwait": "signal {}",
    **dict.fromkeys(("io_getevents", "io_pgetevents"), "{} done"),
    **dict.fromkeys(("io_submit", "io_uring_enter"), "{} submitted"),
}
"""What the result of a call means, by how its name begins: see its manual page."""


@dataclass(frozen=True)
class _Band:
    """A stretch of time drawn as a box: in the kernel's column (``step``) or the application's."""

    phase: str
    begin_ns: int
    end_ns: int
    spent_ns: int
    top: float
    bottom: float
    step: Step | None


def _height(nanoseconds: float) -> float:
    decades = math.log10(max(nanoseconds, SMALLEST_NS) / SMALLEST_NS)
    return LEAST_HEIGHT + HEIGHT_PER_DECADE * decades


def _bands(sequence: RequestSequence) -> list[_Band]:
    bands: list[_Band] = []
    y = 0.0
    previous: Step | None = None
    for step in sequence.steps:
        if previous is not None and step.begin_ns > previous.end_ns:
            length = step.begin_ns - previous.end_ns
            bottom = y + _height(length)
            bands.append(_Band(GAP_PHASE, previous.end_ns, step.begin_ns, length, y, bottom, None))
            y = bottom
        at = step.begin_ns
        for phase in PHASE_ORDER:
            spent = step.phases.get(phase)
            if spent:
                bottom = y + _height(spent)
                until = min(at + spent, step.end_ns)
                bands.append(_Band(phase, at, until, spent, y, bottom, step))
                at, y = until, bottom
        previous = step
    return bands


def _arrival(bands: Sequence[_Band], instant: int) -> float:
    """Return the height at which data arrives: wherever its call lay its copy, before it."""
    last = max((band.top for band in bands if band.phase == "copy"), default=bands[-1].bottom)
    for band in bands:
        if instant <= band.end_ns:
            share = (instant - band.begin_ns) / max(band.end_ns - band.begin_ns, 1)
            place = band.top + min(max(share, 0.0), 1.0) * (band.bottom - band.top)
            return min(place, last)
    return last


def _outcome(step: Step) -> str:
    """Return what a call brought, in a few letters."""
    if step.bytes:
        return f"{step.bytes} B"
    if step.result is None:
        return "..."
    if step.result < 0:
        return errno.errorcode.get(-step.result, str(step.result))
    if step.call.startswith("accept"):
        return "connection"
    meaning = next((text for call, text in _RESULTS.items() if step.call.startswith(call)), "{}")
    return meaning.format(step.result)


def _arrow(axes: Axes, y: float, begin: float, end: float, text: str) -> None:
    axes.annotate(
        "",
        (end, y),
        (begin, y),
        arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0},
    )
    middle = (APPLICATION + KERNEL) / 2
    axes.text(middle, y - 0.12, text, ha="center", va="bottom", fontsize=6.8)


def _draw(axes: Axes, sequence: RequestSequence, name: str) -> None:
    bands = _bands(sequence)
    floor = bands[-1].bottom
    for band in bands:
        x = APPLICATION if band.step is None else KERNEL
        axes.add_patch(
            Rectangle(
                (x - HALF, band.top),
                2 * HALF,
                band.bottom - band.top,
                facecolor=PART_COLOURS[band.phase],
                edgecolor="white",
                linewidth=0.8,
            )
        )
        axes.text(
            x,
            (band.top + band.bottom) / 2,
            time_text(band.spent_ns).replace("us", "µs"),
            ha="center",
            va="center",
            fontsize=6.8,
            color="white" if band.phase in ("runq", "copy", "user") else "black",
        )
    for step in sequence.steps:
        own = [band for band in bands if band.step is step]
        if not own:
            continue
        times = f", {step.count} times" if step.count > 1 else ""
        if step.context not in KERNEL_THREADS:
            _arrow(axes, own[0].top, APPLICATION, KERNEL - HALF, step.call + times)
        _arrow(axes, own[-1].bottom, KERNEL - HALF, APPLICATION, _outcome(step))
        if step.context != "process":
            axes.text(
                KERNEL, own[-1].bottom + 0.1, step.context, ha="center", va="top", fontsize=6.8
            )
    ready = _arrival(bands, sequence.ready_ns)
    axes.annotate(
        "data\narrives",
        (KERNEL + HALF, ready),
        (1.02, ready),
        ha="right",
        va="center",
        fontsize=6.8,
        arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 0.9},
    )
    for x, side in ((APPLICATION, "application"), (KERNEL, "kernel")):
        axes.plot([x, x], [-0.5, floor + 0.5], color=MUTED, linewidth=0.6, zorder=0)
        axes.text(x, -0.9, side, ha="center", va="bottom", fontsize=7.5, fontstyle="italic")
    took = time_text(sequence.copied_ns - sequence.ready_ns).replace("us", "µs")
    axes.set_title(f"{name}\n{took} from arrival to copy", fontsize=8.5, pad=12)
    axes.set(xlim=(0, 1.02))


@styled
def request_sequences(
    sequences: Sequence[RequestSequence], names: Sequence[str] | None = None
) -> Figure:
    """Draw each request in a panel of its own; time runs down, heights grow with its logarithm.

    ``names`` head the panels; without them it is the models.
    """
    rows = max(math.ceil(len(sequences) / PANELS_PER_ROW), 1)
    columns = max(min(len(sequences), PANELS_PER_ROW), 1)
    figure = Figure(layout="constrained")
    deepest = [0.0] * rows
    for index, sequence in enumerate(sequences):
        row = index // PANELS_PER_ROW
        deepest[row] = max(deepest[row], _bands(sequence)[-1].bottom)
    heights = [ABOVE + depth + BELOW for depth in deepest]
    panels = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
    for index, axes in enumerate(panels.flat):
        if index < len(sequences):
            _draw(axes, sequences[index], names[index] if names else sequences[index].model)
        axes.axis("off")
        axes.set_ylim(deepest[index // PANELS_PER_ROW] + BELOW, -ABOVE)
    inches = sum(INCHES_PER_HEIGHT * height + TITLE_INCHES for height in heights)
    figure.set_size_inches(WIDTH / PANELS_PER_ROW * columns, inches + 0.5)
    used = {phase for sequence in sequences for step in sequence.steps for phase in step.phases}
    names = [phase for phase in PHASE_ORDER if phase in used]
    handles = [Patch(color=PART_COLOURS[name], label=PART_NAMES[name]) for name in names]
    handles.append(Patch(color=PART_COLOURS[GAP_PHASE], label="outside the calls"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure
