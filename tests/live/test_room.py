"""What is traced at a time has room in the kernel; where it ends, the trace says so."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.footnotes import footnotes
from analysis.summary import summarise
from probes import program as programs
from probes.program import Program
from tests.live.conftest import BACKEND
from tests.live.recording import assert_closed, record
from tracer.session import attached_program

pytestmark = pytest.mark.live

ROOM = 64
SIZE = 5


@pytest.fixture(scope="module")
def small(live: None) -> Iterator[Program]:
    """Attach probes that have room for few threads and sockets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "SLOTS", ROOM)
        patch.setattr(programs, "_SLOTS_AT_ONCE", ROOM)
        with attached_program(BACKEND) as attached:
            yield attached


def exchange(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Connect, and receive a message over the connection; return both ends."""
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    client.send(b"x" * SIZE)
    assert server.recv(4096) == b"x" * SIZE
    return client, server


def test_the_room_of_a_closed_socket_is_another_ones(small: Program, tmp_path: Path) -> None:
    times = 4 * ROOM + 3

    def work() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for _ in range(times):
                for end in exchange(listener):
                    end.close()

    trace, _ = record(small, tmp_path / "trace", work)
    assert_closed(trace)
    assert trace.meta["sockets_untraced"] == 0
    assert list(trace.deliveries["bytes"]) == [SIZE] * times


def test_sockets_beyond_the_room_lack_deliveries_and_the_trace_says_so(
    small: Program, tmp_path: Path
) -> None:
    times = ROOM + 7

    def work() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=times) as listener:
            ends: list[Any] = [exchange(listener) for _ in range(times)]
            for client, server in ends:
                client.close()
                server.close()

    trace, _ = record(small, tmp_path / "trace", work)
    assert_closed(trace)
    received = trace.calls[trace.calls["call"] == "recvfrom"]
    assert list(received["bytes"]) == [SIZE] * times
    # A listener, and two ends for each connection.
    assert len(trace.deliveries) == (ROOM - 1) // 2
    assert trace.meta["sockets_untraced"] > 0
    assert any("too many sockets" in note for note in footnotes([trace], summarise([trace])))


def test_the_ports_of_an_earlier_recording_are_not_watched(small: Program, tmp_path: Path) -> None:
    def serve() -> int:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for end in exchange(listener):
                end.close()
            return int(listener.getsockname()[1])

    earlier, port = record(small, tmp_path / "earlier", serve)
    assert len(earlier.deliveries) == 1

    def be_somebody_else(_: object) -> None:
        with socket.create_server(("127.0.0.1", port), backlog=2 * ROOM) as listener:
            for client, server in [exchange(listener) for _ in range(2 * ROOM)]:
                client.close()
                server.close()

    trace, _ = record(small, tmp_path / "trace", serve, be_somebody_else)
    assert len(trace.deliveries) == 1
    assert trace.meta["sockets_untraced"] == 0


def test_threads_beyond_the_room_are_counted(small: Program, tmp_path: Path) -> None:
    more = 9

    def work() -> None:
        end = threading.Event()
        many = [threading.Thread(target=end.wait) for _ in range(ROOM - 1 + more)]
        for one in many:
            one.start()
        end.set()
        for one in many:
            one.join()

    trace, _ = record(small, tmp_path / "trace", work)
    assert_closed(trace)
    assert len(trace.threads) == ROOM
    assert trace.meta["threads_untraced"] == more
    assert any("9 threads found no room" in note for note in footnotes([trace], summarise([trace])))
