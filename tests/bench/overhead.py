"""What tracing costs a server: its CPU time by the scheduler's account, with and without.

Server and client share a CPU: on two hyperthreads of a core each would slow the other down, and
what a wake-up on another CPU costs depends on how deeply that one sleeps. The tool's own reader has
another CPU, and its time does not count; what every process pays for the probes does. A machine's
speed drifts by more than what is measured: short spells untraced, with programs that do nothing at
the same tracepoints, and traced take turns, and some of each make a run. What disturbs them only
ever adds: of a run's spells of a kind the lower quartile counts.

Every system call of the server passes the probes and is timed for its ledger; those of the receive
path are recorded besides. The figure is the cost of a request, divided by either number.

What programs that do nothing cost is the kernel's price for being asked: the slow way into a system
call, and a call of a program that its mitigations make dear. It is part of what a user pays, and no
program can change it: what is allowed is what ours cost more.
"""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from probes.compiler import compile_program, load_function
from probes.plan import make_plan
from probes.program import Program
from tests.live.target import cpu_ns
from tracer.session import Session

__all__ = ("ALLOWED_NS", "CPU", "Server", "measure")

ALLOWED_NS = 350
"""For each system call of the server, beyond what programs that do nothing cost."""
CPU = min(os.sched_getaffinity(0))
"""Of server and client."""
_READER_CPU = max(os.sched_getaffinity(0))
RUNS = 5
SPELLS = 16
"""Of each kind in a run."""
_FLOOR = Path(__file__).with_name("floor.bpf.c")


class Server(NamedTuple):
    """Who is measured, whom to follow for it, and a spell of load that returns its requests."""

    pid: int
    followed: int
    load: Callable[[], int]


class Run(NamedTuple):
    """Lower quartiles of a run's spells: CPU ns of a request; and calls recorded for one."""

    untraced: float
    nothing: float
    traced: float
    recorded: float


def measure(server: Server, folder: Path) -> float:
    """Print the runs and their median; return what our programs add to a system call, in ns."""
    os.sched_setaffinity(0, {_READER_CPU})
    os.sched_setaffinity(server.pid, {CPU})
    program = Program(make_plan(submits=False))
    try:
        floor = _compiled_floor(server.pid)
        server.load()
        calls = _system_calls(floor, server)
        print(f"a request takes {calls:.2f} system calls of the server")
        print(" CPU ns/request:  with programs     calls recorded    ns/system  ns/recorded")
        print("untraced  traced  that do nothing      in a request         call         call")
        costs = []
        for _ in range(RUNS):
            run = _run(server, program, floor, folder)
            more = run.traced - run.untraced
            costs.append((more / calls, more / run.recorded, (run.traced - run.nothing) / calls))
            print(
                f"{run.untraced:8,.0f} {run.traced:7,.0f} {run.nothing:16,.0f}"
                f" {run.recorded:17.2f} {costs[-1][0]:12,.0f} {costs[-1][1]:12,.0f}",
                flush=True,
            )
    finally:
        program.close()
    system, recorded, own = (statistics.median(column) for column in zip(*costs, strict=True))
    print(
        f"tracing costs {system:.0f} ns for each system call ({recorded:.0f} ns for each that is"
        f" recorded)\nit is {own:.0f} ns more than programs that do nothing; at most {ALLOWED_NS}"
        f" ns allowed; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
    )
    return float(own)


def _run(server: Server, program: Program, floor: Any, folder: Path) -> Run:
    untraced, nothing, traced, recorded = [], [], [], []
    for _ in range(SPELLS):
        untraced.append(_spell(server)[0])
        with _attached(floor, [name for name in _names(floor) if name.startswith("nothing_")]):
            nothing.append(_spell(server)[0])
        cost, calls = _traced(server, program, folder / "trace")
        traced.append(cost)
        recorded.append(calls)
    return Run(
        statistics.quantiles(untraced)[0],
        statistics.quantiles(nothing)[0],
        statistics.quantiles(traced)[0],
        statistics.median(recorded),
    )


def _spell(server: Server) -> tuple[float, int]:
    """Return the CPU ns of a request, and how many there were."""
    before = cpu_ns(server.pid)
    requests = server.load()
    return (cpu_ns(server.pid) - before) / requests, requests


def _traced(server: Server, program: Program, path: Path) -> tuple[float, float]:
    """Return the CPU ns of a request, and the calls recorded for one."""
    program.attach()
    try:
        with Session(program, path) as session:
            session.follow([server.followed])
            cost, requests = _spell(server)
            session.stop()
            counted = program.counters()
        assert not any(counted.lost.values()), f"{counted.lost} of {counted.emitted} were lost"
        return cost, counted.emitted["CALL"] / requests
    finally:
        program.detach()
        shutil.rmtree(path)


def _compiled_floor(pid: int) -> Any:
    from bcc import BPF

    floor = compile_program(_FLOOR, cflags=[f"-DCOUNTED_PID={pid}"])
    for name in _names(floor):
        load_function(floor, name, BPF.RAW_TRACEPOINT)
    return floor


def _names(floor: Any) -> list[str]:
    from bcc import lib

    return [
        lib.bpf_function_name(floor.module, i).decode()
        for i in range(lib.bpf_num_functions(floor.module))
    ]


@contextmanager
def _attached(floor: Any, names: list[str]) -> Iterator[None]:
    """Attach programs called WHAT_tracepoint, where this kernel has the tracepoint."""
    from bcc import lib

    links = []
    for name in names:
        event = name.partition("_")[2].encode()
        links.append(lib.bpf_attach_raw_tracepoint(floor.funcs[name.encode()].fd, event))
    try:
        yield
    finally:
        for link in links:
            if link >= 0:
                os.close(link)


def _system_calls(floor: Any, server: Server) -> float:
    """Count the system calls of a request."""
    counter = floor["system_calls"]
    before = sum(counter[0])
    with _attached(floor, ["count_sys_exit"]):
        requests = server.load()
        return float((sum(counter[0]) - before) / requests)
