"""Every system call of the receive path is recorded, as often as it was made, with what it gave."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.load import Trace
from probes.calls import numbers
from probes.program import Program
from tests.live import libc
from tests.live.recording import assert_closed, is_attached, record, total
from tests.live.target import asleep, tcp_pair

pytestmark = pytest.mark.live

TIMES = 13
SIZE = 61

RECEIVES: dict[str, Callable[[socket.socket], Any]] = {
    "read": lambda end: os.read(end.fileno(), SIZE),
    "readv": lambda end: os.readv(end.fileno(), [bytearray(7), bytearray(SIZE - 7)]),
    "recvfrom": lambda end: end.recv(SIZE),
    "recvmsg": lambda end: end.recvmsg(SIZE),
    "recvmmsg": lambda end: libc.recvmmsg(end, 1, SIZE),
}


def poll_object(end: socket.socket) -> Any:
    poll = select.poll()
    poll.register(end, select.POLLIN)
    return poll.poll()


def on_epoll(wait: Callable[[select.epoll], Any]) -> Callable[[socket.socket], Any]:
    def waiter(end: socket.socket) -> Any:
        with select.epoll() as epoll:
            epoll.register(end, select.EPOLLIN)
            return wait(epoll)

    return waiter


WAITS: dict[str, Callable[[socket.socket], Any]] = {
    "select": lambda end: libc.select(end.fileno()),
    "pselect6": lambda end: select.select([end], [], []),
    "poll": poll_object,
    "ppoll": lambda end: libc.ppoll(end.fileno()),
    "epoll_wait": on_epoll(lambda epoll: epoll.poll()),
    "epoll_pwait": on_epoll(lambda epoll: libc.epoll_pwait(epoll.fileno())),
    "epoll_pwait2": on_epoll(lambda epoll: libc.epoll_pwait2(epoll.fileno())),
}

FUNCTIONS = {
    **dict.fromkeys(("select", "pselect6"), "core_sys_select"),
    **dict.fromkeys(("poll", "ppoll"), "do_sys_poll"),
    **dict.fromkeys(("epoll_wait", "epoll_pwait", "epoll_pwait2"), "do_epoll_wait"),
}
"""What each of them does its work in."""

PAIRS: dict[str, Callable[[], tuple[socket.socket, socket.socket]]] = {
    "tcp": tcp_pair,
    "udp": lambda: udp_pair(),
    "unix stream": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM),
    "unix datagram": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
    "unix seqpacket": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET),
}


def udp_pair(host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ends = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(2)]
    for end in ends:
        end.bind((host, 0))
    for end, other in (ends, reversed(ends)):
        end.connect(other.getsockname())
    return ends[0], ends[1]


def traced(
    program: Program, path: Path, ends: tuple[socket.socket, socket.socket], step: Callable[[], Any]
) -> Trace:
    """Trace a process that takes ``step`` for each of ``TIMES`` messages, which find it asleep.

    A message that came while it held its socket would lie there until it lets go, and become ready
    in its own time (release_sock, net/core/sock.c).
    """
    left, right = ends

    def receive() -> None:
        for _ in range(TIMES):
            right.send(b".")
            step()

    def send(target: Any) -> None:
        for _ in range(TIMES):
            left.recv(1)
            asleep(target.pid)
            left.send(b"x" * SIZE)

    with left, right:
        trace, _ = record(program, path, receive, send)
    assert_closed(trace)
    return trace


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("call", RECEIVES)
def test_each_receiving_call_has_its_row_bytes_and_delivery(
    call: str, kind: str, program: Program, tmp_path: Path
) -> None:
    ends = PAIRS[kind]()
    trace = traced(program, tmp_path / "trace", ends, lambda: RECEIVES[call](ends[1]))
    rows = trace.calls
    assert list(rows["call"].unique()) == [call]
    assert len(rows) == TIMES
    assert (rows["bytes"] == SIZE).all()
    assert (rows["result"] == (1 if call == "recvmmsg" else SIZE)).all()
    assert rows["socket"].nunique() == 1
    assert list(trace.deliveries["bytes"]) == [SIZE] * TIMES
    # The first message may be there before its socket is named: then nobody knows since when.
    # Loopback raises a softirq on the sender's CPU, which runs as its call lets softirqs in: but
    # before Linux 6.4 (d15121be7485) not where ksoftirqd is about to run, and where a softirq ends
    # with work left while another thread is due, ksoftirqd does it (kernel/softirq.c).
    contexts = ["process", "ksoftirqd"] if kind in ("tcp", "udp") else ["process"]
    assert trace.deliveries["waker_context"][1:].isin(contexts).all()
    assert trace.deliveries["ready_ns"][1:].notna().all()
    if kind == "tcp":
        assert (rows["copy_ns"] > 0).all()


@pytest.mark.parametrize("call", WAITS)
def test_each_waiting_call_has_its_row_and_says_what_was_ready(
    call: str, program: Program, tmp_path: Path
) -> None:
    if call not in numbers():
        pytest.skip(f"this machine has no {call}")
    ends = tcp_pair()

    def wait_and_receive() -> None:
        WAITS[call](ends[1])
        ends[1].recv(SIZE)

    trace = traced(program, tmp_path / "trace", ends, wait_and_receive)
    waits = trace.calls[trace.calls["call"] == call]
    receives = trace.calls[trace.calls["call"] == "recvfrom"]
    assert len(waits) == len(receives) == TIMES
    assert len(trace.calls) == 2 * TIMES
    assert (waits["ready"] == 1).all()
    assert (waits["result"] == 1).all()
    assert waits["bytes"].isna().all()
    assert (waits["check_ns"] > 0).all()
    assert total(waits["copy_ns"]) == 0
    # Only where the function inside is seen, the call's entry and exit can be told from asking.
    inside = is_attached(trace, FUNCTIONS[call])
    assert (waits["function_ns"].notna() == inside).all()
    assert ((waits["overhead_ns"] > 0) == inside).all()
    if call in ("select", "pselect6"):
        assert (waits["nfds"] > 1).all()
    elif "poll" in call and "epoll" not in call:
        assert (waits["nfds"] == 1).all()


@pytest.mark.parametrize("call", ("accept", "accept4"))
def test_each_accept_has_its_row_with_the_new_descriptor(
    call: str, program: Program, tmp_path: Path
) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()

    def server() -> list[int]:
        taken: list[int] = []
        for _ in range(TIMES):
            taken.append(
                libc.accept(listener) if call == "accept" else listener.accept()[0].detach()
            )
        return taken

    def clients(target: Any) -> None:
        for _ in range(TIMES):
            socket.create_connection(address).close()

    with listener:
        trace, taken = record(program, tmp_path / "trace", server, clients)
    assert_closed(trace)
    assert list(trace.calls["call"]) == [call] * TIMES
    assert list(trace.calls["result"]) == taken
    assert trace.calls["fd"].nunique() == 1
    assert len(trace.deliveries) == 0


def test_reading_files_and_pipes_is_no_call_but_other_calls(
    program: Program, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * SIZE)

    def read() -> None:
        reading, writing = os.pipe()
        descriptor = os.open(file, os.O_RDONLY)
        for _ in range(TIMES):
            os.write(writing, b"x" * SIZE)
            os.read(reading, SIZE)
            os.pread(descriptor, SIZE, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.readv(descriptor, [bytearray(SIZE)])

    trace, _ = record(program, tmp_path / "trace", read)
    assert len(trace.calls) == 0
    assert total(trace.threads["other_calls_ns"]) > 0
    assert_closed(trace)


def test_a_look_at_data_that_stays_brings_no_bytes(program: Program, tmp_path: Path) -> None:
    left, right = tcp_pair()

    def peek_then_receive() -> None:
        right.recv(SIZE, socket.MSG_PEEK)
        right.recv(SIZE)

    with left, right:
        left.send(b"x" * SIZE)
        trace, _ = record(program, tmp_path / "trace", peek_then_receive)
    assert total(trace.calls["bytes"]) == SIZE
    assert len(trace.calls) == 2
    assert len(trace.deliveries) == 1
    assert_closed(trace)


def test_failed_calls_say_why(program: Program, tmp_path: Path) -> None:
    left, right = tcp_pair()

    def fail() -> None:
        right.setblocking(False)
        for _ in range(TIMES):
            with contextlib.suppress(BlockingIOError):
                right.recv(SIZE)

    with left, right:
        trace, _ = record(program, tmp_path / "trace", fail)
    assert list(trace.calls["result"]) == [-11] * TIMES
    assert (trace.calls["spin_ns"] > 0).all()
    assert total(trace.calls["overhead_ns"]) == 0
    assert_closed(trace)
