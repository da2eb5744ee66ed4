"""``iophase report --html``: one page that needs nothing else, for a colleague without the tool."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from analysis.compare import warnings
from analysis.errors import TraceError
from analysis.footnotes import footnotes, loss_lines, unattached
from analysis.headline import headline
from analysis.html_figures import all_figures
from analysis.html_tables import all_tables
from analysis.load import Trace, load_many
from analysis.newfile import replacing
from analysis.repeat import commands
from analysis.summary import summarise
from analysis.units import count_text, sizes_text, time_text

__all__ = ("MAX_BYTES", "page", "write_html")

MAX_BYTES = 3 << 20
"""A page that can still be sent by mail."""
NANOSECONDS_PER_SECOND = 10**9


def _date(trace: Trace) -> str | None:
    clock, started = trace.meta.get("clock"), trace.meta.get("started")
    if not clock or started is None:
        return None
    instant = clock["realtime_ns"] + started - clock["monotonic_ns"]
    return f"{datetime.fromtimestamp(instant / NANOSECONDS_PER_SECOND, UTC):%Y-%m-%d %H:%M} UTC"


def _load(trace: Trace) -> str:
    workload = trace.meta.get("workload")
    if not workload:
        return "its own, not ours"
    idle = f" and {workload['idle']} idle" if workload.get("idle") else ""
    rate = f"{workload['rate']:g} messages/s" if workload.get("rate") else "as fast as answered"
    return (
        f"{workload['connections']} busy{idle} connections, {sizes_text(workload['size'])} B, "
        f"{rate}, {workload['duration_s']:.0f} s"
    )


def _facts(traces: Sequence[Trace]) -> list[tuple[str, str]]:
    def values(key: str) -> str:
        return ", ".join(dict.fromkeys(str(trace.meta.get(key) or "unknown") for trace in traces))

    dates = [date for trace in traces if (date := _date(trace))]
    emitted = [trace.emitted for trace in traces]
    lost = [trace.lost for trace in traces]
    targets = dict.fromkeys(
        str(target["comm"]) for trace in traces for target in trace.meta["targets"]
    )
    return [
        ("When", dates[0] if dates else "unknown"),
        ("Kernel", f"{values('kernel')} ({values('arch')})"),
        ("Backend", values("backend")),
        ("Made by", f"iophase {values('iophase')}"),
        ("Processes", ", ".join(targets) or "unknown"),
        ("Load", "; ".join(dict.fromkeys(map(_load, traces)))),
        (
            "Events",
            f"{_sum(emitted)} made, {_sum(lost)} lost",
        ),
    ]


def _sum(counts: Iterable[int | None]) -> str:
    known = list(counts)
    return "unknown" if None in known else count_text(sum(count or 0 for count in known))


def _probes(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """Return what became of each probe; probes that fared alike everywhere are one line."""
    lines: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for trace in traces:
        cost = trace.meta.get("resolution_ns") or {}
        for probe in trace.meta.get("probes") or []:
            name, phase = str(probe["name"]), str(probe.get("phase") or "")
            how = str(probe.get("attached") or "not attached")
            why = str(probe.get("detail") or "")
            line = {"name": name, "phase": phase, "how": how, "why": why}
            line["resolution"] = (
                time_text(cost[phase]) if probe.get("attached") and phase in cost else ""
            )
            lines.setdefault((name, phase, how, why), line)
    return list(lines.values())


def _typographic(value: Any) -> Any:
    """Write the micro sign that the terminal's tables do without."""
    return re.sub(r"(?<=\d) us\b", " µs", value) if type(value) is str else value


def page(traces: Sequence[Trace], *, families: Mapping[str, str] | None = None) -> str:
    """Return the page on some traces. Raises TraceError on a damaged file."""
    for trace in traces:
        trace.keep_if_small()
    summary = summarise(traces, families)
    environment = Environment(
        loader=PackageLoader("analysis"),
        autoescape=True,
        finalize=_typographic,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ", ".join(dict.fromkeys(trace.model or trace.name for trace in traces))
    return environment.get_template("report.html").render(
        title=f"iophase: {names}",
        heading="Waiting or copying?",
        models=names,
        verdict=list(headline(summary)),
        alarms=list(loss_lines(traces)),
        cautions=[
            line for line in warnings(traces) if " lost " not in line and "cut short" not in line
        ],
        facts=_facts(traces),
        tables=all_tables(traces, summary),
        figures=all_figures(traces, summary),
        notes=list(footnotes(traces, summary)),
        probes=_probes(traces),
        missing=len({name for trace in traces for name, _ in unattached(trace)}),
        commands=commands(traces),
    )


def write_html(
    paths: Iterable[str | Path],
    file: str | Path,
    *,
    families: Mapping[str, str] | None = None,
    force: bool = False,
) -> Path:
    """Write the page on trace directories to ``file``, which appears only when it is complete.

    Raises TraceError when a trace is damaged, or ``file`` exists and ``force`` is not given, or
    cannot be written.
    """
    target = Path(file)
    if target.exists() and not force:
        raise TraceError(f"{target}: exists already; remove it or say --force")
    if not target.parent.is_dir():
        raise TraceError(f"{target}: No such file or directory")
    text = page(load_many(paths), families=families)
    try:
        with replacing(target) as out:
            out.write(text.encode("utf-8", "backslashreplace"))  # a name may be no UTF-8
    except OSError as error:
        raise TraceError(f"{target}: {error.strerror or error}") from error
    return target
