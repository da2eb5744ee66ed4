"""``iophase report``: tables, or the same numbers as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.text import Text

from analysis.footnotes import footnotes, loss_lines
from analysis.load import Trace, load_many
from analysis.summary import summarise
from analysis.tables import WIDTH, Absent, render, summary_tables

__all__ = ("report_json", "report_text", "summary_json", "summary_text")


def report_text(
    paths: Iterable[str | Path],
    *,
    families: Mapping[str, str] | None = None,
    absent: Mapping[str, str] | None = None,
    colour: bool = False,
    width: int = WIDTH,
) -> str:
    """Return the report on trace directories as text for a terminal or a pipe.

    ``families`` maps a model to the heading it is listed under, ``absent`` a model that could not
    be run to the reason. Raises TraceError.
    """
    return summary_text(
        load_many(paths), families=families, absent=absent, colour=colour, width=width
    )


def summary_text(
    traces: list[Trace],
    *,
    families: Mapping[str, str] | None = None,
    absent: Mapping[str, str] | None = None,
    colour: bool = False,
    width: int = WIDTH,
) -> str:
    """Return the report on opened traces; losses come first, footnotes last."""
    summary = summarise(traces, families)
    parts = _parts(traces, summary, _absent(absent, families))
    return render(parts, colour=colour, width=width)


def _absent(reasons: Mapping[str, str] | None, families: Mapping[str, str] | None) -> list[Absent]:
    return [
        Absent(model, (families or {}).get(model, ""), reason)
        for model, reason in (reasons or {}).items()
    ]


def _parts(
    traces: list[Trace], summary: pd.DataFrame, absent: Sequence[Absent]
) -> Iterator[RenderableType]:
    for line in loss_lines(traces):
        yield Text(line, style="bold red")
    tables = summary_tables(summary, absent)
    for table in tables:
        yield table
        yield ""
    for note in footnotes(traces, summary):
        yield Text(note, style="dim")


def report_json(
    paths: Iterable[str | Path],
    *,
    families: Mapping[str, str] | None = None,
    absent: Mapping[str, str] | None = None,
) -> str:
    """Return the report on trace directories as a JSON document. Raises TraceError."""
    return summary_json(load_many(paths), families=families, absent=absent)


def summary_json(
    traces: list[Trace],
    *,
    families: Mapping[str, str] | None = None,
    absent: Mapping[str, str] | None = None,
) -> str:
    """Return the summary of opened traces as JSON: an object per trace, null for what is absent.

    Models that could not be run are listed under ``absent``, each with the reason.
    """
    summary = summarise(traces, families)
    rows = [
        {str(key): _plain(value) for key, value in row.items()}
        for row in summary.to_dict("records")
    ]
    missing = [asdict(row) for row in _absent(absent, families)]
    return json.dumps({"schema": 1, "traces": rows, "absent": missing}, indent=2)


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    return value
