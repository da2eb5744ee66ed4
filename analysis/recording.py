"""What is said at the end of a recording of real programs: models, connections, the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from analysis.connections import connections
from analysis.evidence import evidence
from analysis.load import META_FILE, Trace, load
from analysis.recognition import Answer
from analysis.recognition import answers as answers_of
from analysis.tables import WIDTH, render
from analysis.units import bytes_text, count_text, time_text
from analysis.verdict import verdict

__all__ = ("recording_text",)

CONNECTIONS_SHOWN = 10
PROCESSES_SHOWN = 8
"""Answers of processes that are called alike and do the same count as one."""

_FIGURES = (
    ("received", "bytes", bytes_text),
    ("calls", "calls", count_text),
    ("wait", "wait_ns", time_text),
    ("copy", "copy_ns", time_text),
    ("delivery\np50", "delivery_p50_ns", time_text),
    ("delivery\np99", "delivery_p99_ns", time_text),
    ("delivery\nmax", "delivery_max_ns", time_text),
    ("longest\nready", "longest_ready_ns", time_text),
)


def recording_text(path: str | Path, *, colour: bool = False, width: int = WIDTH) -> str:
    """Return what a trace says of its processes' models and connections.

    Nothing of one whose model is known, or of a directory of several. Raises TraceError.
    """
    if not (Path(path) / META_FILE).exists() or (trace := load(path)).model is not None:
        return ""
    return render(_parts(trace), colour=colour, width=width)


def _parts(trace: Trace) -> Iterator[Table | Text | str]:
    yield from _refused(trace)
    trace.keep_if_small()
    found = evidence(trace)
    answers = answers_of(found, trace.threads, trace.meta.get("standing") or [])
    yield from _models(answers)
    table = connections(trace)
    if len(table):
        yield _connections(table)
        yield ""
    yield Text("Verdict", style="bold")
    yield " ".join(verdict(trace, answers, found))


def _refused(trace: Trace) -> Iterator[Text | str]:
    if refused := trace.meta.get("refused"):
        who = ", ".join(f"{one['comm']} {one['pid']}" for one in refused[:PROCESSES_SHOWN])
        more = f" and {len(refused) - PROCESSES_SHOWN} more" * (len(refused) > PROCESSES_SHOWN)
        yield Text("Not traced", style="bold")
        yield f"{who}{more}: looking into them was refused"
        yield ""


def _models(answers: list[Answer]) -> Iterator[Text | str]:
    alike: dict[tuple[str, str], list[Answer]] = {}
    for answer in answers:
        alike.setdefault((answer.comm, answer.model), []).append(answer)
    yield Text("I/O models, and what shows them", style="bold")
    if not alike:
        yield "none: no call of the receive path was seen"
    for (comm, model), members in list(alike.items())[:PROCESSES_SHOWN]:
        first = members[0]
        who = f"{comm} {first.pid}"
        if len(members) > 1:
            who = f"{comm} ({len(members)} processes, such as {first.pid})"
        elif len(first.tids) > 1:
            who += f" ({len(first.tids)} threads)"
        yield Text.assemble(f"{who}: ", (model, "bold"), f" - {', '.join(first.evidence)}")
    if (more := len(alike) - PROCESSES_SHOWN) > 0:
        yield f"and {more} more"
    yield ""


def _connections(table: pd.DataFrame) -> Table:
    shown = table.head(CONNECTIONS_SHOWN)
    local = table["local"].dropna().unique()
    where = f" to {local[0]}" if len(local) == 1 else ""
    beyond = f", {CONNECTIONS_SHOWN} of {len(table):,}" if len(table) > len(shown) else ""
    drawn = Table(
        title=f"Connections{where}; those whose data waited longest first{beyond}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    drawn.add_column("remote", overflow="fold", vertical="bottom")
    if len(local) > 1:
        drawn.add_column("local", no_wrap=True, vertical="bottom")
    for heading, _, _ in _FIGURES:
        drawn.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    for row in shown.to_dict("records"):
        ends = [_remote(row)]
        if len(local) > 1:  # the port says which service it is
            ends.append(_port(row["local"]))
        figures = [text(None if pd.isna(row[name]) else row[name]) for _, name, text in _FIGURES]
        drawn.add_row(*ends, *figures)
    return drawn


def _remote(row: Mapping[Any, Any]) -> str:
    if isinstance(row["remote"], str):
        return row["remote"]
    family = row["family"]
    return f"{family if isinstance(family, str) else ''} socket {row['socket']}".lstrip()


def _port(address: object) -> str:
    return f":{address.rpartition(':')[2]}" if isinstance(address, str) else "-"
