"""Real programs: the model is right, bytes agree, ledgers close, answers stay right."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.connections import connections
from analysis.load import Trace, load
from analysis.recognition import recognise
from analysis.recording import recording_text
from probes.program import Program
from tests.live.recording import assert_closed, recording
from tests.real.clients import CLIENTS, Counter, memcached_sets, redis_benchmark
from tests.real.servers import SERVERS, running

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]


FEW = 20
"""Of a process that makes no more calls, as a client's first try to connect has, nothing may be
known: it can happen that each of them found data."""


def received(trace: Trace) -> int:
    """Return the bytes that came over TCP: other sockets are a program's own affair."""
    table = connections(trace)
    return int(table.loc[table["protocol"] == "tcp", "bytes"].sum())


def assert_recognised(trace: Trace, name: str) -> None:
    """Check the models of the threads that received from TCP, and what is said at the end."""
    tcp = trace.sockets.loc[trace.sockets["protocol"] == "tcp", "socket"]
    calls = trace.calls
    receiving = set(calls.loc[calls["socket"].isin(tcp) & (calls["bytes"] > 0), "tid"])
    found = recognise(trace)
    made = calls.groupby("tid").size()
    models = {
        answer.model
        for answer in found
        if receiving & set(answer.tids)
        and (answer.model != "unknown" or made[list(answer.tids)].max() > FEW)
    }
    assert models == SERVERS[name].models, [str(answer) for answer in found]
    said = " ".join(recording_text(trace.path).split())
    assert "Verdict" in said and "Data lay ready for" in said


@pytest.mark.parametrize("name", CLIENTS)
def test_a_server_under_its_client(program: Program, folder: Path, name: str) -> None:
    with running(name, folder) as (pid, port):
        with recording(program, folder / "trace") as session:
            session.follow([pid])
            least, most = CLIENTS[name](port, pid)
        trace = load(folder / "trace")
    assert_closed(trace)
    assert least <= received(trace) <= most
    assert_recognised(trace, name)


def test_redis_has_received_what_it_says_itself(program: Program, folder: Path) -> None:
    ask = (b"INFO stats\r\n", r"total_net_input_bytes:(\d+)", b"\r\n\r\n")
    with running("redis", folder) as (pid, port), Counter(port, ask[0], ask[1], b"\r\n") as counter:
        before = counter.read()
        with recording(program, folder / "trace") as session:
            session.follow([pid])
            redis_benchmark(port)
            after = counter.read()
        trace = load(folder / "trace")
    assert_closed(trace)
    assert received(trace) == after - before
    assert_recognised(trace, "redis")


def test_memcached_has_received_what_it_says_itself(program: Program, folder: Path) -> None:
    with (
        running("memcached", folder) as (pid, port),
        Counter(port, b"stats\r\n", r"STAT bytes_read (\d+)", b"END\r\n") as counter,
    ):
        before = counter.read()
        with recording(program, folder / "trace") as session:
            session.follow([pid])
            memcached_sets(port)
            after = counter.read()
        trace = load(folder / "trace")
    assert_closed(trace)
    assert received(trace) == after - before
    assert_recognised(trace, "memcached")
