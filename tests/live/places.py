"""Where each model waits, and who copies: servers/MODELS.md, and a trace held against it."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis.load import Trace, load
from probes.program import Program
from servers.models import by_name
from tests.live.recording import assert_closed, recording, total
from tests.live.test_pauses import pause
from tracer.reference import ReferenceServer

__all__ = ("PLACES", "assert_in_place")

TABLE = Path(__file__).parents[2] / "servers" / "MODELS.md"
PAUSES = 5
FIRST, MESSAGE = b"first", b"after a pause"
SETTLE_S = 0.05
"""For a server to go back to waiting after an answer, and for the last row to be complete."""
SHARE = 0.9
"""At least this much of the pauses is where the table says; the rest is on the way to the call."""
ANSWER_S = 20.0


class Place(NamedTuple):
    """A row of the table."""

    waits_in: str
    phase: str
    by: str
    copies_in: str
    context: str


def table() -> dict[str, Place]:
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("| `")]
    rows = [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in lines]
    return {row[0]: Place(*row[1:6]) for row in rows}


PLACES = table()


def converse(address: str) -> list[tuple[int, int]]:
    """Send with pauses; return when each began, and when its message was about to be sent."""
    host, _, port = address.rpartition(":")
    pauses = []
    with socket.create_connection((host, int(port)), timeout=ANSWER_S) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(FIRST)
        client.recv(64)
        for _ in range(PAUSES):
            time.sleep(SETTLE_S)
            began = time.monotonic_ns()
            pause()
            pauses.append((began, time.monotonic_ns()))
            client.sendall(MESSAGE)
            client.recv(64)
        time.sleep(SETTLE_S)
    return pauses


def during(calls: pd.DataFrame, began: int, ended: int) -> pd.DataFrame:
    """Return the calls that were under way in a pause, with ``within``: how long, in ns."""
    end = calls["ts_ns"] + calls["duration_ns"]
    within = end.clip(upper=ended) - calls["ts_ns"].clip(lower=began)
    return calls.assign(within=within)[within > 0]


def slept(trace: Trace, place: Place, pauses: list[tuple[int, int]]) -> int:
    """Return for how much of the pauses a thread of that role slept in that call, at most."""
    roles = trace.threads.set_index("tid")["role"]
    calls = trace.calls[trace.calls["call"] == place.waits_in]
    calls = calls[calls["tid"].map(roles) == place.by]
    found = 0
    for began, ended in pauses:
        rows = during(calls, began, ended)
        off_cpu = rows[["sleep_ns", "runq_ns"]].sum(axis=1)
        by_thread: Any = rows["within"].clip(upper=off_cpu).groupby(rows["tid"]).sum()
        found += int(by_thread.max()) if len(by_thread) else 0
    return found


def received(trace: Trace, since: int) -> pd.DataFrame:
    calls = trace.calls
    rows = calls[calls["ts_ns"] + calls["duration_ns"] >= since]
    return rows[rows["bytes"].fillna(0) > 0]


def assert_in_place(model: str, program: Program, path: Path) -> None:
    """Trace a model's server over pauses that are known, and hold the trace against the table."""
    place = PLACES[model]
    with ReferenceServer(by_name(model)) as server, recording(program, path) as session:
        session.follow([server.pid])
        pauses = converse(server.address)
        session.stop()
    trace = load(path)
    known = sum(ended - began for began, ended in pauses)

    if place.phase == "sleep":
        assert slept(trace, place, pauses) >= SHARE * known
    elif place.phase == "spin":
        for began, ended in pauses:
            rows = during(trace.calls, began, ended)
            asked = rows[rows["call"] == place.waits_in]
            assert len(asked) > 1
            assert total(rows["sleep_ns"]) == 0
            inside = asked[asked["ts_ns"] + asked["duration_ns"] < ended]
            assert (inside["result"] == -11).all()
            assert (inside["spin_ns"] + inside["runq_ns"] == inside["duration_ns"]).all()
    else:
        assert total(trace.calls["sleep_ns"]) == 0
        assert total(trace.threads[f"{place.phase}_ns"]) >= SHARE * known

    rows = received(trace, pauses[0][1])
    copied = set(zip(rows["call"], rows["context"], strict=True))
    assert copied == {(place.copies_in, place.context)}, copied
    assert total(rows["bytes"]) == PAUSES * len(MESSAGE)
    assert total(trace.calls["bytes"]) == len(FIRST) + PAUSES * len(MESSAGE)
    assert len(trace.deliveries) == 1 + PAUSES
    assert_closed(trace)
