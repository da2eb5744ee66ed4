"""Connections that end in every order leave nothing to those that come after them."""

from __future__ import annotations

import select
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from probes.program import Program
from tests.live.recording import assert_closed, record
from tests.live.target import asleep

pytestmark = pytest.mark.live

CONNECTIONS = 101
SIZE = 61


def until_the_peer_has_closed(connection: socket.socket) -> None:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    poll.poll()


@pytest.mark.parametrize("when", ("asleep in recv", "before recv"))
def test_a_fin_after_a_half_close_is_no_data(when: str, program: Program, tmp_path: Path) -> None:
    """It closes the socket, which can still be read; its memory will be another one's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(CONNECTIONS):
                connection, _ = listener.accept()
                connection.recv(SIZE)
                connection.shutdown(socket.SHUT_WR)
                if when == "before recv":
                    until_the_peer_has_closed(connection)
                connection.recv(SIZE)  # the peer's FIN
                connection.close()

        def call(target: Any) -> None:
            for _ in range(CONNECTIONS):
                asleep(target.pid)
                with socket.create_connection(listener.getsockname()) as client:
                    client.send(b"x" * SIZE)
                    client.recv(SIZE)  # the server's FIN

        trace, _ = record(program, tmp_path / "trace", serve, call)
    assert trace.deliveries["bytes"].tolist() == [SIZE] * CONNECTIONS
    assert (trace.deliveries["ready_ns"].diff().dropna() > 0).all()
    assert_closed(trace)


def test_what_came_before_the_end_of_a_half_closed_connection_keeps_its_moment(
    program: Program, tmp_path: Path
) -> None:
    """The peer has sent and closed before any of it is read."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(CONNECTIONS):
                connection, _ = listener.accept()
                connection.shutdown(socket.SHUT_WR)
                until_the_peer_has_closed(connection)
                assert len(connection.recv(2 * SIZE)) == SIZE
                assert not connection.recv(SIZE)
                connection.close()

        def call(target: Any) -> list[tuple[int, int]]:
            moments = []
            for _ in range(CONNECTIONS):
                with socket.create_connection(listener.getsockname()) as client:
                    client.recv(SIZE)  # the server's FIN
                    began = time.monotonic_ns()
                    client.send(b"x" * SIZE)
                    moments.append((began, time.monotonic_ns()))
            return moments

        moments: list[tuple[int, int]] = []
        trace, _ = record(
            program, tmp_path / "trace", serve, lambda target: moments.extend(call(target))
        )
    assert trace.deliveries["bytes"].tolist() == [SIZE] * CONNECTIONS
    # Over loopback the segment is received within send(), or by a softirq soon after.
    for ready, (began, _) in zip(trace.deliveries["ready_ns"], moments, strict=True):
        assert began <= ready
    assert (trace.deliveries["ready_ns"] < trace.deliveries["copied_ns"]).all()
    assert_closed(trace)
