"""What a reader of the tables must know: losses, resolution, absent figures, mixed backends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from analysis.load import Trace
from analysis.ranking import BEST, ROWS_TO_RANK, WORST
from analysis.schema import CALLS, EVIDENCE, PHASES
from analysis.summary import partly_seen
from analysis.tables import BELOW_RESOLUTION, COST_COLUMNS, COUNTED_HERE, SHARE_COLUMNS, Column
from analysis.units import ABSENT, count_text, time_text

__all__ = ("footnotes", "loss_lines", "unattached")


def loss_lines(traces: Sequence[Trace]) -> Iterator[str]:
    """Say which traces lost events, or were cut short: the first thing to read."""
    for trace in traces:
        if trace.lost:
            emitted = trace.emitted or trace.lost
            share = trace.lost / emitted
            yield (
                f"LOST EVENTS in {trace.name}: {count_text(trace.lost)} of "
                f"{count_text(emitted)} ({share:.2%}); the figures below miss them"
            )
        if trace.cut_short:
            yield (
                f"CUT SHORT: the recording of {trace.name} died; losses are unknown, and threads "
                "that were still running then have no ledger"
            )
        if unclosed := trace.meta.get("unclosed"):
            rows = "1 row" if unclosed == 1 else f"{count_text(unclosed)} rows"
            yield f"DEFECT: {rows} of {trace.name} not adding up"


def unattached(trace: Trace) -> list[tuple[str, str]]:
    """Return the probes that did not attach, each with the reason."""
    return [
        (str(probe["name"]), str(probe.get("detail") or "no reason given"))
        for probe in trace.meta.get("probes") or []
        if not probe.get("attached")
    ]


def _left_out(traces: Sequence[Trace]) -> Iterator[str]:
    """Say what was not kept because nobody wanted it."""
    for trace in traces:
        kept = trace.meta
        rows = f"{count_text(kept.get('left_out') or 0)} rows were left out"
        where = f" of {trace.name}" if len(traces) > 1 else ""
        if narrowed := kept.get("narrowed"):
            to = ", ".join(f"{name} {', '.join(map(str, narrowed[name]))}" for name in narrowed)
            yield f"Rows{where} are of {to} only: {rows}; times of threads are of all they did."
        if (one_in := kept.get("sample") or 1) > 1:
            yield (
                f"Rows{where} are of one connection in {one_in} only: {rows}; times of threads are"
                " of all they did."
            )
        if kept.get("summary"):
            yield f"Sums{where} only: {rows}."
        if kept.get("rotate") and kept.get("left_out"):
            yield f"Rows{where} are the newest only: {rows}; times of threads are of all they did."


def _submits(trace: Trace) -> bool:
    table = EVIDENCE if trace.meta.get("summary") else CALLS
    pieces = trace.pieces(table, ["call"])
    return any(piece["call"].isin(("io_uring_enter", "io_submit")).any() for piece in pieces)


def _submitted_unseen(traces: Sequence[Trace]) -> Iterator[str]:
    """Say where io_uring or native AIO was at work without the probe that sees their messages."""
    names: dict[str, list[str]] = {}
    for trace in traces:
        reason = dict(unattached(trace)).get("sock_recv_length")
        if reason and _submits(trace):
            names.setdefault(reason, []).append(trace.name)
    for reason, alike in names.items():
        yield (
            f"{', '.join(alike)}: what io_uring and native AIO received over UDP and unix sockets"
            f" is not in the trace{'s' if len(alike) > 1 else ''} ({reason})."
        )


def _found_no_room(traces: Sequence[Trace]) -> Iterator[str]:
    """Say what is missing because too much was traced at a time."""
    for trace in traces:
        threads = int(trace.meta.get("threads_untraced") or 0)
        if threads:
            yield (
                f"{trace.name}: {count_text(threads)} threads found no room to be traced and are"
                " not in the trace: too many lived at a time."
            )
        if trace.meta.get("sockets_untraced"):
            yield (
                f"{trace.name}: some deliveries are not in the trace: too many sockets were open at"
                " a time."
            )


def _has_absent(summary: pd.DataFrame, columns: Sequence[Column]) -> bool:
    return bool(summary[[column.source for column in columns]].isna().to_numpy().any())


def _too_short(traces: Sequence[Trace], summary: pd.DataFrame) -> Iterator[str]:
    """Say what the probes cost in the phases that are flagged, or that none could be."""
    costs: dict[str, list[int]] = {}
    for trace, short in zip(traces, summary["below_resolution"], strict=True):
        for phase in short:
            costs.setdefault(phase, []).append(trace.meta["resolution_ns"][phase])
    listed = [
        f"{phase} {' to '.join(dict.fromkeys(map(time_text, (min(cost), max(cost)))))}"
        for phase in PHASES
        if (cost := costs.get(phase))
    ]
    if listed:
        yield (
            f"{BELOW_RESOLUTION} below resolution: half of it or more is what the probes themselves"
            f" cost ({', '.join(listed)} a call)."
        )
    if unknown := [trace.name for trace in traces if not trace.meta.get("resolution_ns")]:
        yield (
            f"What the probes cost was not to be measured in {', '.join(unknown)}:"
            f" no {BELOW_RESOLUTION} there."
        )


def footnotes(traces: Sequence[Trace], summary: pd.DataFrame) -> Iterator[str]:
    """Explain the marks in the tables, and what must not be compared."""
    yield (
        "WAIT = sleep + runq + spin + check. COPY and the columns right of it add up to 100. "
        "Delivery: from arrival in the receive queue to the end of the copy."
    )
    yield from _too_short(traces, summary)
    if len(summary) >= ROWS_TO_RANK:
        yield f"{BEST} best and {WORST} worst of the column, where one alone is."
    if ((summary["counted_by"] != "load") & summary["requests"].notna()).any():
        yield f"{COUNTED_HERE} requests are deliveries here: no load generator took part."
    if _has_absent(summary, SHARE_COLUMNS):
        yield f"{ABSENT} this backend cannot tell the phase apart; its time is part of overhead."
    if _has_absent(summary, COST_COLUMNS):
        yield f"{ABSENT} nothing in this trace gives the figure."
    for row in summary[partly_seen(summary)].to_dict("records"):
        yield (
            f"{row['model'] or row['trace']}: {count_text(row['deliveries'])} deliveries for "
            f"{count_text(row['requests'])} requests: a part of the server was not traced."
        )
    yield from _left_out(traces)
    yield from _submitted_unseen(traces)
    merged = sum(int(trace.meta.get("merged") or 0) for trace in traces)
    if merged:
        yield f"{count_text(merged)} arrivals were merged into a neighbour: too many were pending."
    yield from _found_no_room(traces)
    backends = sorted({str(trace.meta["backend"]) for trace in traces})
    kernels = sorted({str(trace.meta["kernel"]) for trace in traces})
    yield f"Backend: {', '.join(backends)}. Kernel: {', '.join(kernels)}."
    if len(backends) > 1:
        yield "Traces of different backends differ in precision: compare with care."
