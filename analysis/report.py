"""``iophase report``: tables, or the same numbers as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from analysis.footnotes import footnotes, loss_lines
from analysis.load import Trace, load_many
from analysis.summary import summarise
from analysis.tables import WIDTH, render, summary_tables

__all__ = ("report_json", "report_text", "summary_json", "summary_text")


def report_text(
    paths: Iterable[str | Path],
    *,
    families: Mapping[str, str] | None = None,
    colour: bool = False,
    width: int = WIDTH,
) -> str:
    """Return the report on trace directories as text for a terminal or a pipe.

    ``families`` maps a model to the heading it is listed under. Raises TraceError.
    """
    return summary_text(load_many(paths), families=families, colour=colour, width=width)


def summary_text(
    traces: list[Trace],
    *,
    families: Mapping[str, str] | None = None,
    colour: bool = False,
    width: int = WIDTH,
) -> str:
    """Return the report on opened traces; losses come first, footnotes last."""
    summary = summarise(traces, families)
    return render(_parts(traces, summary), colour=colour, width=width)


def _parts(traces: list[Trace], summary: pd.DataFrame) -> Iterator[Table | Text | str]:
    for line in loss_lines(traces):
        yield Text(line, style="bold red")
    tables = summary_tables(summary)
    for table in tables:
        yield table
        yield ""
    for note in footnotes(traces, summary):
        yield Text(note, style="dim")


def report_json(paths: Iterable[str | Path], *, families: Mapping[str, str] | None = None) -> str:
    """Return the report on trace directories as a JSON document. Raises TraceError."""
    return summary_json(load_many(paths), families=families)


def summary_json(traces: list[Trace], *, families: Mapping[str, str] | None = None) -> str:
    """Return the summary of opened traces as JSON: an object per trace, null for what is absent."""
    summary = summarise(traces, families)
    rows = [
        {str(key): _plain(value) for key, value in row.items()}
        for row in summary.to_dict("records")
    ]
    return json.dumps({"schema": 1, "traces": rows}, indent=2)


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    return value
