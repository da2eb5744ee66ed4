"""The frame of a trial, and the connections that trials use."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from typing import Any

__all__ = ("ROUNDS", "run", "tcp_pair")

ROUNDS = 101
"""So often everything is done: once could be chance; a prime, as no other count is likely to be."""


def run(trial: Callable[[], dict[str, Any]]) -> None:
    """Wait until the tracer is there, make the trial, and print what it returns."""
    print("ready", flush=True)
    if sys.stdin.readline():
        print(json.dumps(trial()), flush=True)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection on loopback: the accepted one, as of a server, first."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    for end in (near, far):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far
