"""The tables of ``iophase report``: plain text within 100 columns, coloured on a terminal only."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.units import bytes_text, count_text, number_text, share_text, time_text

__all__ = ("COST_COLUMNS", "SHARE_COLUMNS", "WIDTH", "Column", "labels", "render", "summary_tables")

WIDTH = 100
"""Columns of a terminal that the tables fit into."""

BELOW_RESOLUTION = "~"
"""Precedes a figure that is below the resolution of the probes."""
COUNTED_HERE = "*"
"""Follows a number of requests that the load generator did not count."""

NAME_WIDTH = 24
"""``io_uring_multishot`` and its like fit; longer names are folded."""


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, the summary's column, and how a value is written."""

    heading: str
    source: str
    text: Callable[[Any], str]
    style: str = ""


SHARE_COLUMNS = (
    Column("WAIT", "wait", share_text, "bold yellow"),
    Column("COPY", "copy", share_text, "bold cyan"),
    Column("sleep", "sleep", share_text),
    Column("runq", "runq", share_text),
    Column("spin", "spin", share_text),
    Column("check", "check", share_text),
    Column("overhead", "overhead", share_text),
    Column("user", "user", share_text),
    Column("other\ncalls", "other_calls", share_text),
    Column("off-CPU\nelsewhere", "off_cpu_elsewhere", share_text),
)
"""Where the wall time went; COPY and the columns right of it add up to 100."""

COST_COLUMNS = (
    Column("requests\nper s", "requests_per_s", count_text),
    Column("CPU per\nrequest", "cpu_per_request_ns", time_text, "bold"),
    Column("calls per\nrequest", "calls_per_request", number_text),
    Column("received", "bytes", bytes_text),
    Column("delivery\np50", "delivery_p50_ns", time_text),
    Column("delivery\np99", "delivery_p99_ns", time_text),
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


def _cell(column: Column, row: Mapping[Any, Any]) -> Text:
    value = row[column.source]
    text = column.text(None if value is pd.NA else value)
    style = column.style
    if column.source in row["below_resolution"]:
        text, style = f"{BELOW_RESOLUTION}{text}", f"{style} dim"
    if column.source == "requests_per_s" and row["counted_by"] != "load":
        text += COUNTED_HERE
    if column.source == "lost" and row["lost"] is not pd.NA and row["lost"]:
        style = "bold red"
    return Text(text, style=style.strip())


def _table(title: str, columns: Sequence[Column], summary: pd.DataFrame) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("model", max_width=NAME_WIDTH, overflow="fold", vertical="bottom")
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True, vertical="bottom")
    family: str | None = None
    for label, row in zip(labels(summary), summary.to_dict("records"), strict=True):
        if row["family"] and row["family"] != family:
            family = row["family"]
            table.add_row(Text(str(family), style="italic"))
        table.add_row(
            Text(f"  {label}" if row["family"] else label),
            *(_cell(column, row) for column in columns),
        )
    return table


def summary_tables(summary: pd.DataFrame) -> Iterable[Table]:
    """Return the two tables of a summary: shares of the wall time, and the cost of a request.

    Rows of one family stand together, in the order in which the families first appear.
    """
    families = list(dict.fromkeys(summary["family"]))
    ordered = summary.sort_values(
        "family", key=lambda column: column.map(families.index), kind="stable", ignore_index=True
    )
    yield _table("Where the wall time of the server's threads went (%)", SHARE_COLUMNS, ordered)
    yield _table("What a request cost", COST_COLUMNS, ordered)


def render(parts: Iterable[Table | Text | str], *, colour: bool = False, width: int = WIDTH) -> str:
    """Return tables and lines as text; escape sequences only if ``colour``."""
    file = io.StringIO()
    console = Console(
        file=file,
        width=width,
        force_terminal=colour,
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
