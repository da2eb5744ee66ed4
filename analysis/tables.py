"""The tables of ``iophase report``: plain text within 100 columns, coloured on a terminal only."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from analysis.ranking import BEST, WORST, marks
from analysis.units import ABSENT, bytes_text, count_text, number_text, share_text, time_text

__all__ = (
    "COST_COLUMNS",
    "SHARE_COLUMNS",
    "WIDTH",
    "Absent",
    "Column",
    "labels",
    "ranked",
    "render",
    "summary_tables",
)

WIDTH = 100
"""Columns of a terminal that the tables fit into."""

BELOW_RESOLUTION = "~"
"""Precedes a figure that is below the resolution of the probes."""
COUNTED_HERE = "*"
"""Follows a number of requests that the load generator did not count."""

_MARK_STYLES = {BEST: "green", WORST: "red"}

NAME_WIDTH = 24
"""``io_uring_multishot`` and its like fit; longer names are folded."""


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, the summary's column, and how a value is written.

    ``best`` is ``high`` or ``low`` where rows can be ranked by it.
    """

    heading: str
    source: str
    text: Callable[[Any], str]
    style: str = ""
    best: str = ""


@dataclass(frozen=True)
class Absent:
    """A model that could not be run: it has a row with the reason, and no figures."""

    model: str
    family: str
    reason: str


SHARE_COLUMNS = (
    Column("WAIT", "wait", share_text, "bold yellow"),
    Column("COPY", "copy", share_text, "bold cyan"),
    Column("sleep", "sleep", share_text),
    Column("runq", "runq", share_text),
    Column("spin", "spin", share_text, best="low"),
    Column("check", "check", share_text, best="low"),
    Column("overhead", "overhead", share_text, best="low"),
    Column("user", "user", share_text),
    Column("other\ncalls", "other_calls", share_text),
    Column("off-CPU\nelsewhere", "off_cpu_elsewhere", share_text),
)
"""Where the wall time went; COPY and the columns right of it add up to 100."""

COST_COLUMNS = (
    Column("requests\nper s", "requests_per_s", count_text, best="high"),
    Column("CPU per\nrequest", "cpu_per_request_ns", time_text, "bold", best="low"),
    Column("calls per\nrequest", "calls_per_request", number_text, best="low"),
    Column("received", "bytes", bytes_text),
    Column("delivery\np50", "delivery_p50_ns", time_text, best="low"),
    Column("delivery\np99", "delivery_p99_ns", time_text, best="low"),
    Column("lost\nevents", "lost", count_text),
)
"""What a request cost."""


def labels(summary: pd.DataFrame) -> list[str]:
    """Return a name per row: the model, with its directory where that alone is not unique."""
    models = [
        model or trace for model, trace in zip(summary["model"], summary["trace"], strict=True)
    ]
    paths = [Path(path) for path in summary["directory"]]
    for depth in (1, 2):
        names = [
            model if models.count(model) == 1 else f"{model} ({path.parts[-depth]})"
            for model, path in zip(models, paths, strict=True)
        ]
        if len(set(names)) == len(names):
            return names
    return [f"{name} #{number}" for number, name in enumerate(models, 1)]


def _cell(column: Column, row: Mapping[Any, Any], mark: str | None) -> Text:
    """Return a figure with its marks; ``mark`` is None in a column that has none at its right."""
    value = row[column.source]
    text = column.text(None if value is pd.NA else value)
    style = column.style
    if column.source in row["below_resolution"]:
        text, style = f"{BELOW_RESOLUTION}{text}", f"{style} dim"
    counted_here = column.source == "requests_per_s" and row["counted_by"] != "load"
    if counted_here and text != ABSENT:
        text += COUNTED_HERE
    if column.source == "lost" and row["lost"] is not pd.NA and row["lost"]:
        style = "bold red"
    cell = Text(text, style=style.strip())
    if mark is not None:
        cell.append(mark, _MARK_STYLES.get(mark))
    return cell


def ranked(columns: Sequence[Column], summary: pd.DataFrame) -> list[dict[int, str]]:
    """Return for each column which rows are its best and its worst."""
    return [
        marks(summary, column.source, high_is_best=column.best == "high", text=column.text)
        if column.best
        else {}
        for column in columns
    ]


def _cells(columns: Sequence[Column], summary: pd.DataFrame) -> Iterator[list[Text]]:
    """Yield the cells of each row; a column with marks has a place for them in every row."""
    marked = ranked(columns, summary)
    for number, row in enumerate(summary.to_dict("records")):
        yield [
            _cell(column, row, own.get(number, " ") if own else None)
            for column, own in zip(columns, marked, strict=True)
        ]


class _WithReasons:
    """A table in which some rows are one text across all columns; rich's own have only cells."""

    def __init__(self, table: Table, reasons: Mapping[str, str]) -> None:
        """``reasons`` are the texts by what stands in an otherwise empty row."""
        self._table = table
        self._reasons = reasons

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = self._table.columns[0].width
        for line in console.render_lines(self._table, options, pad=False, new_lines=True):
            name = "".join(segment.text for segment in line).rstrip()
            if name in self._reasons:
                across = Table.grid(padding=(0, 2, 0, 0))
                across.add_column(width=width)
                across.add_column(overflow="fold")
                across.add_row(name, self._reasons[name], style="dim")
                yield across
            else:
                yield from line


def _table(
    title: str, columns: Sequence[Column], summary: pd.DataFrame, absent: Sequence[Absent]
) -> _WithReasons:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    names = [*labels(summary), *(row.model for row in absent)]
    places = [family or "" for family in summary["family"].fillna("")]
    indent = "  " if any(places) or absent else ""
    families = dict.fromkeys([*places, *(row.family for row in absent)])
    longest = max(map(len, ["model", *families, *(indent + name for name in names)]))
    width = min(NAME_WIDTH, longest)
    table.add_column("model", width=width, overflow="fold", vertical="bottom")
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True, vertical="bottom")
    rows = list(zip(places, names, _cells(columns, summary), strict=False))
    for place in families:
        if place:
            table.add_row(Text(place, style="italic"))
        for of_place, name, cells in rows:
            if of_place == place:
                table.add_row(Text(f"{indent if place else ''}{name}"), *cells)
        for row in absent:
            if row.family == place:
                table.add_row(Text(f"{indent}{row.model}"))
    return _WithReasons(table, {f"{indent}{row.model}": row.reason for row in absent})


def summary_tables(
    summary: pd.DataFrame, absent: Sequence[Absent] = ()
) -> Iterable[RenderableType]:
    """Return the two tables of a summary: shares of the wall time, and the cost of a request.

    Rows of one family stand together, in the order in which the families first appear; after them
    the models that could not be run, with the reason.
    """
    title = "Where the wall time of the server's threads went (%)"
    yield _table(title, SHARE_COLUMNS, summary, absent)
    yield _table("What a request cost", COST_COLUMNS, summary, absent)


def render(parts: Iterable[RenderableType], *, colour: bool = False, width: int = WIDTH) -> str:
    """Return tables and lines as text; escape sequences only if ``colour``."""
    file = io.StringIO()
    console = Console(
        file=file,
        width=width,
        force_terminal=colour,
        force_jupyter=False,
        color_system="standard" if colour else None,
        highlight=False,
        legacy_windows=False,
        _environ={},
    )
    for part in parts:
        if isinstance(part, str):
            console.print(Text(part), soft_wrap=False)
        else:
            console.print(part)
    lines = (line.rstrip() for line in file.getvalue().splitlines())
    return "\n".join(lines) + "\n"
