"""A sender that pauses 50 ms: the receiver waited 50 ms, in the call in which it really waits."""

from __future__ import annotations

import socket
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from analysis.load import Trace, load
from probes.program import Program
from servers.models import by_name
from tests.live.recording import assert_closed, recording, total
from tests.live.target import asleep
from tracer.reference import ReferenceServer

pytestmark = pytest.mark.live

PAUSE_NS = 50_000_000
PAUSES = 11
TOLERANCE = 0.01
SPIN_BEFORE_NS = 2_000_000
"""The last part of a pause is waited for on the CPU: a sleeper is late when others are busy."""

SLEEPS_IN = {
    "blocking": "recvfrom",
    "threads": "recvfrom",
    "select": "pselect6",
    "poll": "poll",
    "epoll": "epoll_wait",
}


def pause() -> None:
    end = time.monotonic_ns() + PAUSE_NS
    time.sleep((PAUSE_NS - SPIN_BEFORE_NS) / 1e9)
    while time.monotonic_ns() < end:
        pass


def converse(server: ReferenceServer, *, sleeps: bool) -> list[tuple[int, int]]:
    """Send with pauses; return when each pause began, and when its message was about to be sent."""
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port))) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(b"first")
        client.recv(64)
        pauses = []
        for _ in range(PAUSES):
            if sleeps:
                asleep(server.pid)
            began = time.monotonic_ns()
            pause()
            pauses.append((began, time.monotonic_ns()))
            client.sendall(b"after a pause")
            client.recv(64)
    return pauses


def traced_pauses(
    program: Program, path: Path, model: str, *, sleeps: bool
) -> tuple[Trace, list[tuple[int, int]]]:
    with ReferenceServer(by_name(model)) as server, recording(program, path) as session:
        session.follow([server.pid])
        pauses = converse(server, sleeps=sleeps)
        session.stop()
    return load(path), pauses


def known(pauses: list[tuple[int, int]]) -> int:
    return sum(ended - began for began, ended in pauses)


def row_during(trace: Trace, call: str, began: int, ended: int) -> Any:
    """Return the one call of this name that was under way from ``began`` to ``ended``."""
    calls = trace.calls[trace.calls["call"] == call]
    end = calls["ts_ns"] + calls["duration_ns"]
    rows = calls[(calls["ts_ns"] <= began) & (end >= ended)]
    assert len(rows) == 1
    return rows.iloc[0]


@pytest.mark.parametrize("model", SLEEPS_IN)
def test_a_pause_of_50_ms_is_slept_in_the_call_that_waits(
    model: str, program: Program, tmp_path: Path
) -> None:
    trace, pauses = traced_pauses(program, tmp_path / "trace", model, sleeps=True)
    excess = []
    for began, ended in pauses:
        row = row_during(trace, SLEEPS_IN[model], began, ended)
        assert row["sleep_ns"] >= ended - began >= PAUSE_NS
        assert row["spin_ns"] == 0
        waited = row[["sleep_ns", "runq_ns", "check_ns", "overhead_ns", "copy_ns"]].sum()
        assert waited == row["duration_ns"]
        truth = ended - row["ts_ns"]  # it was in the call before the pause was begun
        assert waited >= truth
        excess.append((waited - row["runq_ns"]) / truth - 1)
    assert statistics.median(excess) <= TOLERANCE, excess
    sleepers = (SLEEPS_IN[model], "accept4", "rt_sigtimedwait")  # the main thread of threads
    other = trace.calls[~trace.calls["call"].isin(sleepers)]
    assert total(other["sleep_ns"]) == 0
    assert_closed(trace)


def test_a_server_that_polls_spends_the_pauses_spinning(program: Program, tmp_path: Path) -> None:
    trace, pauses = traced_pauses(program, tmp_path / "trace", "nonblocking", sleeps=False)
    calls = trace.calls
    assert total(calls["sleep_ns"]) == 0
    again = calls[calls["result"] == -11]
    assert (again["spin_ns"] > 0).all()
    assert (again["spin_ns"] + again["runq_ns"] == again["duration_ns"]).all()
    for began, ended in pauses:
        during = calls[(calls["ts_ns"] >= began) & (calls["ts_ns"] + calls["duration_ns"] <= ended)]
        assert (during["result"] == -11).all()
    polling = trace.threads[["user_ns", "spin_ns", "runq_ns", "off_cpu_elsewhere_ns"]]
    assert polling.sum(axis=1).sum() >= (1 - TOLERANCE) * known(pauses)
    assert_closed(trace)


def test_a_server_that_naps_spends_the_pauses_off_the_cpu_elsewhere(
    program: Program, tmp_path: Path
) -> None:
    trace, pauses = traced_pauses(program, tmp_path / "trace", "nonblocking-nap", sleeps=False)
    assert total(trace.calls["sleep_ns"]) == 0
    assert 0.8 * known(pauses) <= total(trace.threads["off_cpu_elsewhere_ns"])
    assert_closed(trace)
