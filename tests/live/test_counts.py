"""A known, prime number of messages of known sizes: every count is exact, in all six models."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.load import Trace, load
from probes.program import Program
from servers.load import Load, LoadOptions, Result
from servers.models import by_name
from tests.live.recording import assert_closed, recording, total
from tests.live.target import PATIENCE_S
from tracer.processes import socket_inodes
from tracer.reference import ReferenceServer

pytestmark = pytest.mark.live

MESSAGES = 1009
FEW = 211
CONNECTIONS = 7
SIZE = 61
SIZES = (1, 61, 509, 4093)
"""Prime too, and all within one segment, so that a message is one arrival."""

MODELS = ("blocking", "threads", "nonblocking", "select", "poll", "epoll")
WAITING_CALLS = {"select": "pselect6", "poll": "poll", "epoll": "epoll_wait"}
EAGAIN = -11


def run(
    program: Program,
    path: Path,
    model: str,
    sizes: tuple[int, ...],
    *,
    messages: int = MESSAGES,
    work_us: int = 0,
) -> tuple[Trace, Result, dict[str, Any]]:
    """Return the trace of a server under load, what the load says, and what the server counted."""
    options = LoadOptions(connections=CONNECTIONS, messages=messages, sizes=sizes)
    arguments = ["--work", str(work_us)] if work_us else []
    with ReferenceServer(by_name(model), arguments) as server:
        with Load(server.address, options) as load_made, recording(program, path) as session:
            session.follow([server.pid])
            load_made.connect()
            result = load_made.run()
            all_closed(server.pid)
            session.stop()
        return load(path), result, server.stop()


def all_closed(pid: int) -> None:
    """Wait until a server has noticed that all its clients have gone."""
    limit = time.monotonic() + PATIENCE_S
    while len(socket_inodes(pid)) > 1:
        assert time.monotonic() < limit
        time.sleep(0.01)


def receives(trace: Trace) -> pd.DataFrame:
    return trace.calls[trace.calls["call"] == "recvfrom"]


@pytest.mark.parametrize("model", MODELS)
def test_every_message_is_one_receive_and_one_delivery_of_its_size(
    model: str, program: Program, tmp_path: Path
) -> None:
    trace, _, _ = run(program, tmp_path / "trace", model, (SIZE,))
    results = receives(trace)["result"]
    assert (results[results > 0] == SIZE).all()
    assert (results > 0).sum() == MESSAGES
    assert (results == 0).sum() == CONNECTIONS  # each client closes at its end
    assert len(trace.deliveries) == MESSAGES
    assert (trace.deliveries["bytes"] == SIZE).all()
    assert trace.meta["merged"] == 0
    accepted = trace.calls[(trace.calls["call"] == "accept4") & (trace.calls["result"] >= 0)]
    assert len(accepted) == CONNECTIONS
    assert_closed(trace)


@pytest.mark.parametrize("model", MODELS)
def test_counters_of_server_client_and_trace_agree(
    model: str, program: Program, tmp_path: Path
) -> None:
    trace, result, counters = run(program, tmp_path / "trace", model, SIZES)
    traced = {
        "connections": CONNECTIONS,
        "messages": int((receives(trace)["bytes"] > 0).sum()),
        "bytes_received": total(receives(trace)["bytes"]),
    }
    assert traced == counters
    assert traced["messages"] == result.messages == result.verified == MESSAGES
    assert traced["bytes_received"] == result.bytes_sent == result.bytes_received
    assert traced["bytes_received"] == total(trace.deliveries["bytes"])
    assert traced["bytes_received"] == total(trace.threads["bytes"])
    for socket in receives(trace)["socket"].unique():
        of_calls = receives(trace)[receives(trace)["socket"] == socket]
        of_deliveries = trace.deliveries[trace.deliveries["socket"] == socket]
        assert total(of_calls["bytes"]) == total(of_deliveries["bytes"])
    assert_closed(trace)


@pytest.mark.parametrize("model", WAITING_CALLS)
def test_what_a_waiting_call_reports_ready_is_what_is_then_received_or_accepted(
    model: str, program: Program, tmp_path: Path
) -> None:
    trace, _, _ = run(program, tmp_path / "trace", model, (SIZE,))
    waits = trace.calls[trace.calls["call"] == WAITING_CALLS[model]]
    taken = trace.calls[trace.calls["call"].isin(["recvfrom", "accept4"])]
    assert (taken["result"] >= 0).all()
    assert total(waits["ready"]) == len(taken) == MESSAGES + 2 * CONNECTIONS
    assert (waits["nfds"].isna() if model == "epoll" else waits["nfds"] > 0).all()
    assert set(trace.calls["call"]) == {WAITING_CALLS[model], "recvfrom", "accept4"}


def test_data_that_waits_while_a_server_is_busy_with_others_is_seen(
    program: Program, tmp_path: Path
) -> None:
    work_ns = 5_000_000
    trace, _, _ = run(
        program, tmp_path / "trace", "epoll", (SIZE,), messages=FEW, work_us=work_ns // 1000
    )
    rows = trace.deliveries
    assert len(rows) == FEW
    waited = rows["copied_ns"] - rows["ready_ns"]
    # Seven clients, one thread: all but one always stand in line.
    assert waited.median() > 4 * work_ns
    asleep = trace.calls[trace.calls["call"] == "epoll_wait"]["sleep_ns"]
    assert asleep.median() < work_ns / 10  # the thread's own view shows nothing of it
    ordered = rows.sort_values("ready_ns")
    assert (ordered["ready_ns"] <= ordered["noticed_ns"]).all()
    assert (ordered["noticed_ns"] <= ordered["copied_ns"]).all()
    assert_closed(trace)
