"""A sender that pauses 50 ms: the receiver waited 50 ms, in the call in which it really waits.

The truth is the sender's clock, pause by pause, and for naps the scheduler's own account.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from analysis.load import Trace, load
from probes.program import Program
from servers.models import by_name
from servers.nonblocking_nap_server import NAP_S
from tests.live.recording import assert_closed, recording, total
from tests.live.target import PATIENCE_S, asleep, cpu_ns
from tracer.reference import ReferenceServer

pytestmark = pytest.mark.live

PAUSE_NS = 50_000_000
EMULATED = 10 if "IOPHASE_LAB" in os.environ else 1
"""Where a message takes milliseconds, pauses must be longer to be known to within 1 %."""
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


class Silence(NamedTuple):
    """A pause by the sender's clock: it sent nothing from ``began`` to ``ended``."""

    began: int
    ended: int
    """The message was about to be sent ..."""
    answered: int
    """... and its reply is there: the receiver had it before."""

    @property
    def is_known(self) -> bool:
        """Whether it is known to within 1 % when data came; not where the sender had to wait."""
        return self.answered - self.ended <= TOLERANCE * (self.ended - self.began)


def pause(length_ns: int = PAUSE_NS) -> None:
    end = time.monotonic_ns() + length_ns
    time.sleep((length_ns - SPIN_BEFORE_NS) / 1e9)
    while time.monotonic_ns() < end:
        pass


def converse(server: ReferenceServer, *, sleeps: bool) -> list[Silence]:
    """Send after pauses, until enough of those that are slept through are known well."""
    host, _, port = server.address.rpartition(":")
    limit = time.monotonic() + PATIENCE_S
    with socket.create_connection((host, int(port))) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(b"first")
        client.recv(64)
        silences: list[Silence] = []
        while sum(silence.is_known or not sleeps for silence in silences) < PAUSES:
            assert time.monotonic() < limit, silences
            if sleeps:
                asleep(server.pid)
            began = time.monotonic_ns()
            pause(PAUSE_NS * EMULATED)
            ended = time.monotonic_ns()
            client.sendall(b"after a pause")
            client.recv(64)
            silences.append(Silence(began, ended, time.monotonic_ns()))
    return silences


def traced_pauses(
    program: Program, path: Path, model: str, *, sleeps: bool
) -> tuple[Trace, list[Silence]]:
    with ReferenceServer(by_name(model)) as server, recording(program, path) as session:
        session.follow([server.pid])
        silences = converse(server, sleeps=sleeps)
        session.stop()
    return load(path), silences


def known(silences: list[Silence]) -> int:
    return sum(silence.ended - silence.began for silence in silences)


def row_during(trace: Trace, call: str, silence: Silence) -> Any:
    """Return the one call of this name that was under way during a silence."""
    calls = trace.calls[trace.calls["call"] == call]
    end = calls["ts_ns"] + calls["duration_ns"]
    rows = calls[(calls["ts_ns"] <= silence.began) & (end >= silence.ended)]
    assert len(rows) == 1
    return rows.iloc[0]


@pytest.mark.parametrize("model", SLEEPS_IN)
def test_a_pause_of_50_ms_is_slept_in_the_call_that_waits(
    model: str, program: Program, tmp_path: Path
) -> None:
    trace, silences = traced_pauses(program, tmp_path / "trace", model, sleeps=True)
    for silence in silences:
        row = row_during(trace, SLEEPS_IN[model], silence)
        assert row["sleep_ns"] >= silence.ended - silence.began >= PAUSE_NS
        assert row["spin_ns"] == 0
        wait = row["sleep_ns"] + row["runq_ns"] + row["check_ns"]
        truth = silence.ended - row["ts_ns"]  # it was in the call before the pause was begun
        assert wait + row["overhead_ns"] >= truth
        assert wait <= silence.answered - row["ts_ns"]
        if silence.is_known:
            assert truth * (1 - TOLERANCE) <= wait <= truth * (1 + TOLERANCE)
    sleepers = (SLEEPS_IN[model], "accept4", "rt_sigtimedwait")  # the main thread of threads
    other = trace.calls[~trace.calls["call"].isin(sleepers)]
    assert total(other["sleep_ns"]) == 0
    assert_closed(trace)


def test_a_server_that_polls_spends_the_pauses_spinning(program: Program, tmp_path: Path) -> None:
    trace, silences = traced_pauses(program, tmp_path / "trace", "nonblocking", sleeps=False)
    calls = trace.calls.assign(end=trace.calls["ts_ns"] + trace.calls["duration_ns"])
    assert total(calls["sleep_ns"]) == 0
    again = calls[calls["result"] == -errno.EAGAIN]
    assert (again["spin_ns"] > 0).all()
    assert (again["spin_ns"] + again["runq_ns"] == again["duration_ns"]).all()
    for silence in silences:
        during = calls[(calls["ts_ns"] >= silence.began) & (calls["end"] <= silence.ended)]
        assert len(during) and (during["result"] == -errno.EAGAIN).all()
        found = calls[(calls["bytes"] > 0) & (calls["end"] > silence.ended)].iloc[0]
        assert found["end"] <= silence.answered
    polling = trace.threads[["user_ns", "spin_ns", "runq_ns", "off_cpu_elsewhere_ns"]]
    assert total(polling.sum(axis=1)) >= known(silences)
    assert_closed(trace)


def test_a_server_that_naps_spends_the_pauses_off_the_cpu_elsewhere(
    program: Program, tmp_path: Path
) -> None:
    """It naps after each round, for no less than it asked (nanosleep(2)), and the scheduler knows
    for how long it was on a CPU."""
    path = tmp_path / "trace"
    with ReferenceServer(by_name("nonblocking-nap")) as server:
        before = cpu_ns(server.pid)
        with recording(program, path) as session:
            session.follow([server.pid])
            silences = converse(server, sleeps=False)
            session.stop()
        on_cpu = cpu_ns(server.pid) - before
    trace = load(path)
    assert total(trace.calls["sleep_ns"]) == 0
    [napped], [wall] = trace.threads["off_cpu_elsewhere_ns"], trace.threads["wall_ns"]
    rounds = int((trace.calls["call"] == "recvfrom").sum())
    assert napped >= NAP_S * 1e9 * (rounds - 1)  # the last nap may not have ended
    preempted = total(trace.threads["runq_ns"])  # in one of its calls
    assert wall >= napped + preempted >= wall - on_cpu
    assert wall >= known(silences) >= PAUSES * PAUSE_NS
    assert_closed(trace)
