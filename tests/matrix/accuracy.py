"""The same workload measured by every backend, side by side.

    make accuracy KERNEL=6.1

prints the tables of probes/KERNELS.md: what each backend says of one workload, in one boot.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from analysis.load import Trace
from probes.plan import BACKENDS, Backend, make_plan, refusals
from probes.program import Program
from tests.live.recording import total
from tests.matrix.workloads import beside_idle, paused, queued

__all__ = ("COPIED", "Measured", "copy_again", "measure", "measure_all", "table")

ROUNDS = 2
"""For a table to keep the backends take turns: what happens to the machine meanwhile, and that the
first one meets cold code (an emulator translates it then), is nobody's alone."""
PAUSES = 7
COPIED = {64: 19, 65_536: 19, 262_144: 19}
"""Bytes of a message: how many of them in a round."""
IDLE = 500
WAITS = 11


class Measured(NamedTuple):
    """What one backend says; times in ns, each the fastest, which nobody has interrupted."""

    sleep: float
    """In a pause of known length, as a share of it; the median."""
    calls: int
    bytes: int
    copy: dict[int, float]
    """Of a message, by its size."""
    check: dict[str, float]
    """Of a wait beside idle sockets, by how it waits."""
    ready_to_noticed: float
    notify: float | None
    """None where it is not seen."""


def measure(program: Program, path: Path) -> Measured:
    """Run the workload and return what the attached backend says of it."""
    waited, pauses = paused(program, path / "pauses", "blocking", PAUSES, sleeps=True)
    receives = _received(program, path / "copies")
    crowds = {
        call: beside_idle(program, path / call, call, IDLE, WAITS)
        for call in ("select", "poll", "epoll")
    }
    deliveries = crowds["epoll"].deliveries
    delay = deliveries["noticed_ns"] - deliveries["ready_ns"]
    notify = deliveries["notify_ns"].dropna()
    return Measured(
        statistics.median(_slept(waited, began, ended) for began, ended in pauses),
        len(receives),
        total(receives["bytes"]),
        _copies(receives),
        {call: _check(trace, call) for call, trace in crowds.items()},
        float(delay.min()),
        float(notify.min()) if len(notify) else None,
    )


def _received(program: Program, path: Path) -> pd.DataFrame:
    calls = queued(program, path, COPIED).calls
    return calls[calls["call"] == "recvfrom"]


def _copies(receives: pd.DataFrame) -> dict[int, float]:
    return {size: float(receives[receives["bytes"] == size]["copy_ns"].min()) for size in COPIED}


def _together(rounds: list[Measured]) -> Measured:
    notify = [one.notify for one in rounds if one.notify is not None]
    return Measured(
        statistics.median(one.sleep for one in rounds),
        sum(one.calls for one in rounds),
        sum(one.bytes for one in rounds),
        {size: min(one.copy[size] for one in rounds) for size in rounds[0].copy},
        {call: min(one.check[call] for one in rounds) for call in rounds[0].check},
        min(one.ready_to_noticed for one in rounds),
        min(notify, default=None),
    )


def _slept(trace: Trace, began: int, ended: int) -> float:
    """Return the sleep of the receive in a pause, as a share of its time until the pause ends."""
    end = trace.calls["ts_ns"] + trace.calls["duration_ns"]
    during = trace.calls[(trace.calls["ts_ns"] <= began) & (end >= ended)]
    rows = during[during["call"] == "recvfrom"]
    assert len(rows) == 1
    return total(rows["sleep_ns"]) / (ended - total(rows["ts_ns"]))


def _check(trace: Trace, call: str) -> float:
    name = {"select": "pselect6", "poll": "poll", "epoll": "epoll_wait"}[call]
    return float(trace.calls[trace.calls["call"] == name]["check_ns"].min())


def _row(label: str, values: list[str]) -> str:
    return f"| {label} | " + " | ".join(values) + " |"


def _microseconds(values: list[float | None]) -> list[str]:
    return ["" if value is None else f"{value / 1000:.1f}" for value in values]


def table(measured: dict[Backend, Measured]) -> str:
    """Return the comparison as a Markdown table."""
    every = list(measured.values())
    rows = [
        _row("", list(measured)),
        _row("---", ["---:"] * len(every)),
        _row("sleep in a pause of 50 ms", [f"{m.sleep:.2%}" for m in every]),
        _row("receiving calls", [str(m.calls) for m in every]),
        _row("bytes", [str(m.bytes) for m in every]),
    ]
    for size in COPIED:
        rows.append(_row(f"copy of {size} B, µs", _microseconds([m.copy[size] for m in every])))
    for call in ("select", "poll", "epoll"):
        values = _microseconds([m.check[call] for m in every])
        rows.append(_row(f"check of {call}, {IDLE} idle sockets, µs", values))
    delays = _microseconds([m.ready_to_noticed for m in every])
    rows.append(_row("ready to noticed, epoll, µs", delays))
    rows.append(_row("notify, epoll, µs", _microseconds([m.notify for m in every])))
    return "\n".join(rows)


def measure_all(program: Program, path: Path, rounds: int) -> dict[Backend, Measured]:
    """Return what each backend says that this host allows; the program has their plans."""
    plans = {backend: make_plan(backend) for backend in BACKENDS if backend not in refusals()}
    measured: dict[Backend, list[Measured]] = {backend: [] for backend in plans}
    program.detach()
    for number in range(rounds):
        for backend, plan in plans.items():
            program.attach(plan)
            try:
                measured[backend].append(measure(program, path / f"{backend}-{number}"))
            finally:
                program.detach()
    return {backend: _together(done) for backend, done in measured.items()}


def copy_again(program: Program, path: Path, measured: dict[Backend, Measured]) -> None:
    """Let each backend see the copies once more, for a busy machine may have disturbed them all."""
    for backend, before in measured.items():
        program.attach(make_plan(backend))
        try:
            now = _copies(_received(program, path / backend))
        finally:
            program.detach()
        copy = {size: min(before.copy[size], now[size]) for size in COPIED}
        measured[backend] = before._replace(copy=copy)


def main() -> None:
    """Print the table of this kernel."""
    refused = refusals()
    first, *further = [make_plan(backend) for backend in BACKENDS if backend not in refused]
    program = Program(first, further=further)
    with tempfile.TemporaryDirectory() as path:
        measured = measure_all(program, Path(path), ROUNDS)
    program.close()
    print(f"### {platform.release()}\n\n{table(measured)}")


if __name__ == "__main__":
    main()
