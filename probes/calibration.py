"""What the probes themselves cost: calls that do nothing, with and without them.

A thread makes calls whose work is next to nothing, in a loop, before the probes are attached and,
traced, afterwards. Of several rounds the fastest counts, so that a busy machine does not spoil it;
together they take some tens of milliseconds.

- ``spin``: ``recv`` of an empty socket. What it takes longer is what the probes in it cost.
- ``check``: ``poll`` of a socket that is ready, likewise.
- ``sleep``, ``runq``: a byte sent to another process on the same CPU and back, asleep meanwhile;
  what it takes longer, beyond what a ``recv`` that does not sleep takes longer.
- ``copy``: what the probes report as ``copy`` of one byte, whose copy takes a nanosecond.
- ``overhead``: what a ``recv`` of that byte takes longer, without what they report as its copy.

A phase of a call that is shorter than this says more about the probes than about the call. The
figures are stored with the trace, and nothing is corrected by them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from probes.errors import ProbeError

if TYPE_CHECKING:
    from probes.program import Program

__all__ = ("Costs", "calibrate", "measure")

Costs = dict[str, float]
"""ns per call, by the name of the call."""

_ROUNDS = 9
_CALLS = 40
"""In a round: 0.1 ms, so that most rounds are not interrupted."""

_POLLIN = 1
_TID = threading.get_native_id


class _PollFd(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


@contextlib.contextmanager
def _one_cpu() -> Iterator[None]:
    """Keep the thread, and what it starts, on one CPU."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextlib.contextmanager
def _echo() -> Iterator[int]:
    """Yield a socket on which another process sends back what it is sent."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            echo = subprocess.Popen(["cat"], stdin=theirs.fileno(), stdout=theirs.fileno())
        try:
            yield ours.fileno()
        finally:
            echo.kill()
            echo.wait()


@contextlib.contextmanager
def _calls() -> Iterator[dict[str, Callable[[], object]]]:
    """Yield the calls that do nothing, by name; the sockets are our own."""
    libc = ctypes.CDLL(None)
    buffer = ctypes.create_string_buffer(b"x", 1)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_one_cpu())
        echo = stack.enter_context(_echo())
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        sender = stack.enter_context(socket.create_connection(listener.getsockname()))
        full = stack.enter_context(listener.accept()[0])
        sender.send(b"x")
        empty, ready = sender.fileno(), full.fileno()
        asked = ctypes.byref(_PollFd(ready, _POLLIN))
        peek = socket.MSG_DONTWAIT | socket.MSG_PEEK

        def sleep() -> None:
            libc.send(echo, buffer, 1, 0)
            libc.recv(echo, buffer, 1, 0)

        yield {
            "empty": lambda: libc.recv(empty, buffer, 1, socket.MSG_DONTWAIT),
            "poll": lambda: libc.poll(asked, 1, 0),
            "peek": lambda: libc.recv(ready, buffer, 1, peek),
            "sleep": sleep,
        }


def _round(call: Callable[[], object]) -> float:
    """Return what the call costs now, in ns."""
    began = time.perf_counter_ns()
    for _ in range(_CALLS):
        call()
    return (time.perf_counter_ns() - began) / _CALLS


def measure() -> Costs:
    """Return what each call that does nothing costs now, in ns; empty without loopback."""
    try:
        with _calls() as calls:
            return {name: min(_round(call) for _ in range(_ROUNDS)) for name, call in calls.items()}
    except OSError:
        return {}


def calibrate(program: Program, without: Costs) -> dict[str, int]:
    """Return ``resolution_ns``: for each phase what the probes cost in it, in ns.

    ``program`` is attached and traces nothing else; ``without`` is what ``measure`` said before.
    Empty where it could not be measured. What is recorded meanwhile is thrown away.

    A traced thread takes turns with this one, which is not: so the machine, whose speed changes
    with what else it does, is the same for both. What the probes cost a thread that is not traced,
    which is little, is all that is held against ``without``.
    """
    if not without:
        return {}
    try:
        with _calls() as calls, ThreadPoolExecutor(1) as thread:
            tid = thread.submit(_TID).result()
            with _traced(program, tid):
                missed, traced, copy = _both(program, calls, thread, tid)
    except OSError:
        return {}
    more = {
        name: max(0.0, traced[name] - missed[name]) + max(0.0, missed[name] - without[name])
        for name in without
    }
    switches = max(0.0, more["sleep"] - more["empty"])
    costs = {
        "sleep": switches,
        "runq": switches,
        "spin": more["empty"],
        "check": more["poll"],
        "copy": copy,
        "overhead": None if copy is None else max(0.0, more["peek"] - copy),
    }
    return {phase: round(cost) for phase, cost in costs.items() if cost is not None}


def _both(
    program: Program,
    calls: dict[str, Callable[[], object]],
    thread: ThreadPoolExecutor,
    tid: int,
) -> tuple[Costs, Costs, float | None]:
    """Return what the calls cost here and in the traced thread, and what is reported as a copy.

    The last is of one byte; None if these probes do not see it.
    """
    here, there, copies = dict[str, list[float]](), dict[str, list[float]](), list[float]()
    for name, call in calls.items():
        for _ in range(_ROUNDS):
            here.setdefault(name, []).append(_round(call))
            before = program.ledger(tid)
            there.setdefault(name, []).append(thread.submit(_round, call).result())
            after = program.ledger(tid)
            if name == "peek":
                copies.append((after["copy"] - before["copy"]) / _CALLS)
    fastest = [{name: min(costs[name]) for name in costs} for costs in (here, there)]
    return fastest[0], fastest[1], min(filter(None, copies), default=None)


@contextlib.contextmanager
def _traced(program: Program, tid: int) -> Iterator[None]:
    """Trace a thread of this process in the block, and leave no record of it."""
    from probes.program import OpenThread

    thread = OpenThread(os.getpid(), tid, "calibration", -1)
    with program.opening():
        opened = program.open_thread(thread)
    if not opened:
        raise ProbeError("calibration: a thread of our own cannot be traced")
    try:
        yield
    finally:
        program.stop(time.monotonic_ns())
        program.forget()
