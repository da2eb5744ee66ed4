"""Connections that end in every order leave nothing to those that come after them."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from probes.program import Program
from tests.live.recording import assert_closed, record
from tests.live.target import asleep

pytestmark = pytest.mark.live

CONNECTIONS = 101
SIZE = 61


def test_a_fin_after_a_half_close_is_no_data_of_the_next_connection(
    program: Program, tmp_path: Path
) -> None:
    """The kernel tells of such a FIN when the socket is closed already, and reuses its memory."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(CONNECTIONS):
                connection, _ = listener.accept()
                connection.recv(SIZE)
                connection.shutdown(socket.SHUT_WR)
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
