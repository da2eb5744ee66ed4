"""Draws ``top``: a header that always shows losses and cost, and a table that fits 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from tracer.live.state import TopState
from tracer.live.window import Group

__all__ = ("SORTS", "VIEWS", "View", "draw")

VIEWS = {"p": "pid", "t": "tid", "c": "socket"}
"""Keys of the views, and what is a line in each."""
_ONE = {"pid": "process", "tid": "thread", "socket": "connection"}
_MANY = {"pid": "processes", "tid": "threads", "socket": "connections"}

SORTS: dict[str, tuple[str, Callable[[Group], float]]] = {
    "n": ("calls/s", lambda group: group.calls),
    "b": ("received/s", lambda group: group.bytes),
    "w": ("wait", lambda group: group.wait),
    "y": ("copy", lambda group: group.copy or 0.0),
    "l": ("longest", lambda group: group.longest or 0.0),
}
"""Keys of the orders, largest first."""

_BARS = " ▁▂▃▄▅▆▇█"
_FRAME_LINES = 6
"""Lines of the screen that are no rows of the table."""
_LEAST_WIDTH, _LEAST_MODEL, _NAME_WIDTH = 80, 14, 24
"""Columns of the smallest terminal, of the models there, and of what a line is called."""
_KEYS = "p/t/c view  n/b/w/y/l sort  space pause  q quit"


@dataclass(frozen=True)
class View:
    """What the user has chosen to see."""

    column: str = "pid"
    sort: str = "n"
    paused: bool = False

    def pressed(self, key: str) -> View:
        """Return the view after a key; keys that mean nothing change nothing."""
        if key in VIEWS:
            return replace(self, column=VIEWS[key], sort="l" if key == "c" else "n")
        if key in SORTS:
            return replace(self, sort=key)
        return replace(self, paused=not self.paused) if key == " " else self


def draw(
    state: TopState, groups: list[Group], view: View, elapsed_s: float, size: tuple[int, int]
) -> Lines:
    """Return the whole picture; ``size`` is that of the terminal: columns and lines."""
    width, height = size
    _, largest = SORTS[view.sort]
    shown = sorted(groups, key=largest, reverse=True)[: max(1, height - _FRAME_LINES)]
    return Lines(
        _header(state, view, elapsed_s, len(groups)),
        _table(state, shown, view, _LEAST_MODEL + max(0, width - _LEAST_WIDTH)),
        Text(_KEYS, style="dim"),
    )


def _header(state: TopState, view: View, elapsed_s: float, lines: int) -> Text:
    from analysis.units import count_text

    lost = f"LOST {count_text(state.lost)}" if state.lost else "lost 0"
    refused = len(state.following.refused)
    title = (_ONE if lines == 1 else _MANY)[view.column]
    what = f"{lines} {title} by {SORTS[view.sort][0]}"
    return Text.assemble(
        (f"iophase top  {elapsed_s:.0f} s  {what}", "bold"),
        ("  PAUSED" if view.paused else "", "bold yellow"),
        "\n",
        (lost, "bold red" if state.lost else "green"),
        f" of {count_text(state.emitted)} records, own cost {state.cpu_share:.1%} of a CPU",
        (f", {refused} not traced" if refused else "", "bold red"),
        (_found_no_room(state), "bold red"),
    )


def _found_no_room(state: TopState) -> str:
    """Say on a line of its own what is missing because too much is traced at a time."""
    from analysis.units import count_text

    missing = []
    if state.threads_untraced:
        missing.append(f"{count_text(state.threads_untraced)} threads")
    if state.sockets_untraced:
        missing.append("deliveries of some sockets")
    return f"\nNO ROOM for {' and '.join(missing)}: too many at a time" if missing else ""


def _table(state: TopState, groups: Sequence[Group], view: View, model_width: int) -> Table:
    from analysis.units import bytes_text, count_text, share_text, time_text

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, expand=False)
    first = "remote" if view.column == "socket" else _ONE[view.column]
    table.add_column(first, no_wrap=True, max_width=_NAME_WIDTH, overflow="ellipsis")
    if view.column != "socket":
        table.add_column("model", no_wrap=True, max_width=model_width, overflow="ellipsis")
    for heading in ("calls/s", "recv/s", "wait%", "copy%"):
        table.add_column(heading, justify="right", no_wrap=True)
    ends = ("p99", "longest") if view.column != "socket" else ("p50", "p99", "longest")
    for heading in ends:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for group in groups:
        times = [group.p99, group.longest]
        model = [] if view.column == "socket" else [_model(state, group, view.column)]
        if view.column == "socket":
            times.insert(0, group.p50)
        table.add_row(
            _name(state, group, view.column),
            *model,
            count_text(group.calls),
            bytes_text(group.bytes),
            share_text(group.wait),
            share_text(group.copy),
            *(time_text(time) for time in times),
            _bars(list(state.history.get((view.column, group.key), ()))),
        )
    return table


def _model(state: TopState, group: Group, column: str) -> str:
    return state.models[column].get(group.key, "").replace("-triggered", "")


def _name(state: TopState, group: Group, column: str) -> str:
    if column == "socket":
        return state.names.sockets.get(group.key, f"socket {group.key}")
    names = state.names.processes if column == "pid" else state.names.threads
    return f"{group.key} {names.get(group.key, '')}"


def _bars(past: list[float]) -> str:
    """Draw the last intervals, the largest as high as the line."""
    most = max(past, default=0.0)
    if not most:
        return ""
    return "".join(_BARS[round(value / most * (len(_BARS) - 1))] for value in past[-8:])
