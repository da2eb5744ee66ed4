"""What is run to be measured: conversations whose truth is known beforehand."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import socket
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from analysis.load import Trace, load
from probes.program import Program
from servers.load import Load, LoadOptions, Result
from servers.models import by_name
from tests.live.recording import record, recording
from tests.live.target import Target, asleep, tcp_pair
from tracer.processes import socket_inodes
from tracer.reference import ReferenceServer

__all__ = (
    "AFTER_A_PAUSE",
    "FIRST",
    "PAUSE_NS",
    "Served",
    "beside_idle",
    "paused",
    "queued",
    "served",
    "spun_pause",
)

PAUSE_NS = 50_000_000
FIRST, AFTER_A_PAUSE = b"first", b"after a pause"
_SETTLE_S = 3.0
"""Some servers hold sockets of their own: then waiting for their clients' to go ends here."""
_SPIN_NS = 5_000_000
"""The last part of a pause is waited for on the CPU: a sleeper is late when others are busy."""
_NAP_S = 0.001
_SETTLED_S = 0.01
"""Where one thread emulates all CPUs, what runs on another CPU is part of a call's time: while a
call is measured, its partner sleeps."""


class Served(NamedTuple):
    """What came of a server under load."""

    trace: Trace
    result: Result
    """What the load says."""
    counters: dict[str, Any]
    """What the server counted."""
    pauses: list[tuple[int, int]]
    """When each pause after the load began and ended."""


def served(
    program: Program,
    path: Path,
    name: str,
    options: LoadOptions,
    pauses: int = 0,
    *,
    sleeps: bool = True,
) -> Served:
    """Trace a server under load, and afterwards with pauses, if there are to be any."""
    with ReferenceServer(by_name(name)) as server:
        with Load(server.address, options) as made, recording(program, path) as session:
            session.follow([server.pid])
            made.connect()
            result = made.run()
            _until_closed(server.pid)
            known = _send_with_pauses(server, pauses, sleeps) if pauses else []
            session.stop()
        return Served(load(path), result, server.stop(), known)


def _until_closed(pid: int) -> None:
    """Give the server time to notice that its clients have gone: some hold sockets elsewhere."""
    limit = time.monotonic() + _SETTLE_S
    while len(socket_inodes(pid)) > 1 and time.monotonic() < limit:
        time.sleep(0.02)


def spun_pause() -> None:
    """Let 50 ms go by, and not much more."""
    end = time.monotonic_ns() + PAUSE_NS
    time.sleep((PAUSE_NS - _SPIN_NS) / 1e9)
    while time.monotonic_ns() < end:
        pass


def paused(
    program: Program, path: Path, name: str, pauses: int, *, sleeps: bool
) -> tuple[Trace, list[tuple[int, int]]]:
    """Trace a server with pauses; return the trace and when each pause began and ended."""
    with ReferenceServer(by_name(name)) as server, recording(program, path) as session:
        session.follow([server.pid])
        known = _send_with_pauses(server, pauses, sleeps)
        session.stop()
    return load(path), known


def _send_with_pauses(server: ReferenceServer, pauses: int, sleeps: bool) -> list[tuple[int, int]]:
    """Send the first message, and one after each pause; return when those began and ended."""
    known = []
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port))) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(FIRST)
        client.recv(64)
        for _ in range(pauses):
            if sleeps:
                asleep(server.pid)
            began = time.monotonic_ns()
            spun_pause()
            known.append((began, time.monotonic_ns()))
            client.sendall(AFTER_A_PAUSE)
            client.recv(64)
    return known


def queued(
    program: Program,
    path: Path,
    sizes: dict[int, int],
    pair: Callable[[], tuple[socket.socket, socket.socket]] = tcp_pair,
) -> Trace:
    """Receive messages that lie in the socket completely: {bytes: how many}, one call each."""
    left, right = pair()
    largest = max(sizes)
    for end in (left, right):
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            end.setsockopt(socket.SOL_SOCKET, option, 4 * largest)
    order = [size for size, times in sizes.items() for _ in range(times)]

    def receive() -> None:
        buffer = bytearray(largest)
        for size in order:
            while _queued_bytes(right) < size:
                time.sleep(_NAP_S)
            right.recv_into(buffer, size)
            right.send(b".")

    def send(target: Target) -> None:
        for size in order:
            left.sendall(bytes(size))
            left.recv(1)

    with left, right:
        trace, _ = record(program, path, receive, send)
    return trace


def _queued_bytes(end: socket.socket) -> int:
    answer = fcntl.ioctl(end, termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


def beside_idle(program: Program, path: Path, call: str, idle: int, arrivals: int) -> Trace:
    """Wait by select, poll or epoll for ``arrivals`` bytes on one of ``idle`` + 1 sockets."""
    left, right = tcp_pair()

    def receive() -> None:
        _close_inherited()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
        crowd = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(idle)]
        for end in crowd:
            end.bind(("127.0.0.1", 0))
        wait = _waiting(call, [right, *crowd])
        for _ in range(arrivals):
            right.send(b".")
            wait()
            right.recv(1)

    def send(target: Target) -> None:
        for _ in range(arrivals):
            left.recv(1)
            time.sleep(_SETTLED_S)
            asleep(target.pid)
            left.send(b"x")

    with left, right:
        trace, _ = record(program, path, receive, send)
    return trace


def _close_inherited() -> None:
    """In the child: close the parent's BPF descriptors, for select() has but 1024."""
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(entry.readlink()).startswith("anon_inode:"):
                os.close(int(entry.name))


def _waiting(call: str, ends: list[socket.socket]) -> Callable[[], object]:
    if call == "select":
        return lambda: select.select(ends, [], [])
    asked = select.poll() if call == "poll" else select.epoll()
    for end in ends:
        asked.register(end, select.POLLIN)
    return asked.poll
