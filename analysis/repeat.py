"""The commands that make a trace again, read from what it says about itself."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from analysis.load import Trace
from analysis.units import sizes_text

__all__ = ("commands", "record_command", "report_command")


_LINK = {"--delay": "delay_ms", "--loss": "loss_percent", "--bandwidth": "bandwidth_mbit"}


def record_command(trace: Trace) -> str:
    """Return the command that records this trace again, as far as the trace tells."""
    backend = ["--backend", str(trace.meta["backend"])]
    workload = trace.meta.get("workload")
    if trace.model and workload:
        size = sizes_text(workload["size"])
        load = ["--connections", workload["connections"], "--size", size]
        for option in ("idle", "rate"):
            if workload.get(option):
                load += [f"--{option}", workload[option]]
        if workload.get("transport", "tcp") != "tcp":
            load += ["--transport", workload["transport"]]
        if link := workload.get("network"):
            load += ["--network", link["kind"]]
            for option, figure in _LINK.items():
                load += [option, link[figure]] if link.get(figure) else []
        load += ["--duration", max(round(float(workload["duration_s"])), 1)]
        return _line(["sudo", "iophase", "run", trace.model, *load, *backend])
    command = trace.meta.get("command")
    if command:
        return _line(["sudo", "iophase", "record", *backend, "--", *command])
    target = ",".join(str(target["comm"]) for target in trace.meta["targets"]) or "PROGRAM"
    return f"sudo iophase record {' '.join(backend)} -p PID   # of {target}"


def report_command(traces: Iterable[Trace]) -> str:
    """Return the command that makes the page again."""
    return _line(["iophase", "report", "--html", "FILE", *(str(trace.path) for trace in traces)])


def commands(traces: Sequence[Trace]) -> list[str]:
    """Return the commands that make these traces and their page again, each once."""
    return [*dict.fromkeys(map(record_command, traces)), report_command(traces)]


def _line(words: Iterable[object]) -> str:
    return shlex.join(map(str, words))
