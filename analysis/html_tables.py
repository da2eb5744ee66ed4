"""The tables of the page: the same columns and texts as in the terminal, and numbers to sort by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.attribution import attribute
from analysis.deliveries import deliveries
from analysis.delivery_waits import REASONS
from analysis.load import Trace
from analysis.ranking import BEST, WORST
from analysis.schema import PHASES
from analysis.tables import (
    BELOW_RESOLUTION,
    COST_COLUMNS,
    COUNTED_HERE,
    SHARE_COLUMNS,
    Column,
    labels,
    ranked,
)
from analysis.units import ABSENT, count_text, share_text, time_text

__all__ = ("Cell", "HtmlTable", "all_tables")

MEANINGS = {
    "wait": "sleep + runq + spin + check",
    "sleep": "off the CPU, blocked until something wakes it",
    "runq": "awake, waiting for a CPU",
    "spin": "on the CPU in a call that found nothing",
    "check": "on the CPU, asking which descriptors are ready",
    "copy": "moving the payload from the kernel to the process",
    "overhead": "the rest of the call: entry, exit, locks, protocol work",
    "user": "on the CPU in user space",
    "other_calls": "on the CPU in all other system calls",
    "off_cpu_elsewhere": "off the CPU outside traced calls: naps, locks, disks",
    "nobody_asked": "the thread had nothing to serve, did not ask, and did not know",
    "busy": "the thread was on other data, or between calls after it, or on its way",
    "asleep": "the thread slept in a call that waits for this data",
    "call": "the rest of the calls that wait for it or take it",
}

REASON_COLUMNS = tuple(
    Column(reason.replace("_", " "), f"{reason}_share", share_text) for reason in REASONS
)


@dataclass(frozen=True)
class Cell:
    """What a cell shows, what it is sorted by, and its classes in the style sheet."""

    text: str
    key: float | str
    look: str = ""


@dataclass(frozen=True)
class HtmlTable:
    """A sortable table: ``columns`` are (heading, meaning); the first column names the row."""

    title: str
    note: str
    columns: list[tuple[str, str]]
    rows: list[list[Cell]] = field(default_factory=list)


def _number(value: Any) -> float:
    return -1.0 if value is None or value is pd.NA or pd.isna(value) else float(value)


_MARKS = {BEST: "best", WORST: "worst"}


def _cell(column: Column, row: dict[str, Any], mark: str) -> Cell:
    value = row[column.source]
    text = column.text(None if value is pd.NA else value)
    looks = [mark]
    if column.source in row.get("below_resolution", ()):
        text = BELOW_RESOLUTION + text
        looks.append("dim")
    counted_here = column.source == "requests_per_s" and row["counted_by"] != "load"
    if counted_here and text != ABSENT:
        text += COUNTED_HERE
    if column.source == "lost" and _number(value) > 0:
        looks.append("alarm")
    return Cell(text, _number(value), " ".join(filter(None, looks)))


def _table(
    title: str, note: str, columns: Sequence[Column], frame: pd.DataFrame, names: Iterable[str]
) -> HtmlTable:
    heads = [
        (column.heading, MEANINGS.get(column.source.removesuffix("_share"), ""))
        for column in columns
    ]
    marked = list(zip(columns, ranked(columns, frame), strict=True))
    rows = []
    for number, (name, row) in enumerate(zip(names, frame.to_dict("records"), strict=True)):
        cells = [
            _cell(column, _keys(row), _MARKS.get(own.get(number, ""), "")) for column, own in marked
        ]
        rows.append([Cell(name, name.lower(), "word"), *cells])
    return HtmlTable(title, note, [("model", ""), *heads], rows)


def _keys(row: dict[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in row.items()}


def _calls(traces: Sequence[Trace]) -> HtmlTable:
    table = attribute(traces, by="call", per="call")
    heads = [("call", ""), ("calls", "")]
    heads += [(phase, MEANINGS[phase]) for phase in PHASES]
    rows = []
    for row in table.to_dict("records"):
        name, call = str(row["model"]), str(row["call"])
        cells = [Cell(name, name.lower(), "word"), Cell(call, call, "word")]
        cells.append(Cell(count_text(row["calls"]), float(row["calls"])))
        for phase in PHASES:
            value = row[f"{phase}_ns_per_call"]
            cells.append(Cell("0" if value == 0 else time_text(value), _number(value)))
        rows.append(cells)
    note = "Mean per call. Traces of one model are put together."
    return HtmlTable("What each kind of call cost", note, [("model", ""), *heads], rows)


def all_tables(traces: Sequence[Trace], summary: pd.DataFrame) -> list[HtmlTable]:
    """Return the tables of the page: shares, cost of a request, reasons of waiting, calls."""
    names = labels(summary)
    waits = deliveries(traces)
    return [
        _table(
            "Where the wall time of the threads went (%)",
            "COPY and the columns right of it add up to 100; WAIT = sleep + runq + spin + check.",
            SHARE_COLUMNS,
            summary,
            names,
        ),
        _table(
            "What a request cost",
            "Delivery: from arrival in the socket's receive queue to the end of the copy.",
            COST_COLUMNS,
            summary,
            names,
        ),
        _table(
            "What the data waited for (% of all waiting of the data)",
            "Each delivery is laid over what the thread that took it did meanwhile.",
            REASON_COLUMNS,
            waits,
            names,
        ),
        _calls(traces),
    ]
