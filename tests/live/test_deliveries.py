"""Each piece of data: when it arrived, when the program learned of it, when it had it."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from probes.program import Program
from tests.live.libc import recvmmsg
from tests.live.recording import assert_closed, record, total
from tests.live.target import PATIENCE_S, asleep, tcp_pair
from tests.live.test_calls import udp_pair
from tests.servers.client import within

pytestmark = pytest.mark.live

TIMES = 13
SIZE = 61
PAUSE_S = 0.02
SO_MEMINFO = 55
"""Its first number is SK_MEMINFO_RMEM_ALLOC (include/uapi/linux/sock_diag.h)."""


def sending(end: socket.socket, sent: list[tuple[int, int]]) -> None:
    """Send a message, and note when the send began and ended."""
    before = time.monotonic_ns()
    end.send(b"x" * SIZE)
    sent.append((before, time.monotonic_ns()))


def assert_inside(rows: Any, column: str, sent: list[tuple[int, int]]) -> None:
    """Check that each moment was within its send: loopback delivers, and wakes, in it.

    Unless ksoftirqd is left to do it: then not before it.
    """
    for context, at, (before, after) in zip(rows["waker_context"], rows[column], sent, strict=True):
        assert context in ("process", "ksoftirqd")
        assert before <= at
        assert at <= after or context == "ksoftirqd"


@contextlib.contextmanager
def gate() -> Iterator[tuple[Callable[[], Any], Callable[[], Any]]]:
    """Yield a wait, in something other than a receive, and what ends it."""
    reading, writing = os.pipe()
    try:
        yield lambda: os.read(reading, 1), lambda: os.write(writing, b".")
    finally:
        os.close(reading)
        os.close(writing)


def held(end: socket.socket) -> int:
    """Return the memory of what lies in a socket's receive queue: 0 only when it is empty."""
    return int(struct.unpack_from("I", end.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))[0])


def deliver(left: socket.socket, right: socket.socket, data: bytes) -> None:
    """Send, and return when it lies in the other end's receive queue, whoever brings it there."""
    before = held(right)
    left.send(data)
    assert within(PATIENCE_S, lambda: held(right) > before)


def test_ready_is_when_the_sender_sends(program: Program, tmp_path: Path) -> None:
    left, right = tcp_pair()
    sent: list[tuple[int, int]] = []

    def receive() -> None:
        for _ in range(TIMES):
            right.recv(SIZE)
            right.send(b".")

    def send(target: Any) -> None:
        for _ in range(TIMES):
            asleep(target.pid)
            sending(left, sent)
            left.recv(1)

    with left, right:
        trace, _ = record(program, tmp_path / "trace", receive, send)
    rows = trace.deliveries
    assert_inside(rows, "ready_ns", sent)
    assert (rows["ready_ns"] <= rows["noticed_ns"]).all()
    assert (rows["noticed_ns"] <= rows["copied_ns"]).all()
    assert_closed(trace)


def test_data_that_lies_there_while_the_program_does_something_else_has_waited(
    program: Program, tmp_path: Path
) -> None:
    left, right = tcp_pair()
    moments: list[tuple[int, int, int]] = []
    """Of each: before it was sent, when it lay there, and when the program was let go."""

    with left, right, gate() as (wait, release):

        def receive_late() -> list[int]:
            received = []
            for _ in range(TIMES):
                right.send(b".")
                wait()
                right.recv(SIZE)
                received.append(time.monotonic_ns())
            return received

        def send(target: Any) -> None:
            for _ in range(TIMES):
                left.recv(1)
                asleep(target.pid)
                before = time.monotonic_ns()
                deliver(left, right, b"x" * SIZE)
                there = time.monotonic_ns()
                time.sleep(PAUSE_S)
                moments.append((before, there, time.monotonic_ns()))
                release()

        trace, received = record(program, tmp_path / "trace", receive_late, send)
    rows = trace.deliveries
    assert len(rows) == TIMES
    waited = rows["copied_ns"] - rows["ready_ns"]
    for ns, (before, there, released), taken in zip(waited, moments, received, strict=True):
        assert released - there <= ns <= taken - before
    assert total(trace.calls["sleep_ns"]) == 0  # the thread's own view shows nothing of it
    paused = sum(released - there for _, there, released in moments)
    assert total(trace.threads["off_cpu_elsewhere_ns"]) >= paused
    assert_closed(trace)


def test_noticed_is_when_the_call_that_reported_it_returned(
    program: Program, tmp_path: Path
) -> None:
    left, right = tcp_pair()

    def receive() -> None:
        with select.epoll() as epoll:
            epoll.register(right, select.EPOLLIN)
            for _ in range(TIMES):
                right.send(b".")
                epoll.poll()
                right.recv(SIZE)

    def send(target: Any) -> None:
        for _ in range(TIMES):
            left.recv(1)
            asleep(target.pid)
            left.send(b"x" * SIZE)

    with left, right:
        trace, _ = record(program, tmp_path / "trace", receive, send)
    waits = trace.calls[trace.calls["call"] == "epoll_wait"]
    returned = (waits["ts_ns"] + waits["duration_ns"]).tolist()
    assert trace.deliveries["noticed_ns"].tolist() == returned
    assert_closed(trace)


def test_a_sleeper_in_a_receive_notices_when_it_is_woken(program: Program, tmp_path: Path) -> None:
    left, right = tcp_pair()
    sent: list[tuple[int, int]] = []

    def receive() -> None:
        for _ in range(TIMES):
            right.recv(SIZE)

    def send(target: Any) -> None:
        for _ in range(TIMES):
            asleep(target.pid)
            sending(left, sent)
            time.sleep(0.001)

    with left, right:
        trace, _ = record(program, tmp_path / "trace", receive, send)
    rows, calls = trace.deliveries, trace.calls
    woken = calls["ts_ns"] + calls["duration_ns"] - calls["copy_ns"] - calls["runq_ns"]
    assert_inside(rows, "noticed_ns", sent)
    assert (rows["noticed_ns"].to_numpy() <= woken.to_numpy()).all()
    assert_closed(trace)


def test_a_receive_that_takes_several_arrivals_delivers_each(
    program: Program, tmp_path: Path
) -> None:
    left, right = tcp_pair()

    with left, right, gate() as (wait, release):

        def receive() -> int:
            wait()
            return len(right.recv(TIMES * SIZE))

        def send(target: Any) -> None:
            asleep(target.pid)
            for _ in range(TIMES):
                deliver(left, right, b"x" * SIZE)
            release()

        trace, received = record(program, tmp_path / "trace", receive, send)
    assert received == TIMES * SIZE
    assert len(trace.calls) == 1
    rows = trace.deliveries
    assert rows["bytes"].tolist() == [SIZE] * TIMES
    assert rows["ready_ns"].is_monotonic_increasing
    assert rows["copied_ns"].nunique() == 1
    assert_closed(trace)


def test_an_arrival_that_is_taken_in_parts_is_delivered_with_its_last(
    program: Program, tmp_path: Path
) -> None:
    left, right = tcp_pair()

    with left, right, gate() as (wait, release):

        def receive() -> None:
            wait()
            for _ in range(TIMES):
                right.recv(SIZE)

        def send(target: Any) -> None:
            asleep(target.pid)
            deliver(left, right, b"x" * SIZE * TIMES)
            release()

        trace, _ = record(program, tmp_path / "trace", receive, send)
    calls, rows = trace.calls, trace.deliveries
    assert len(calls) == TIMES
    assert rows["bytes"].tolist() == [SIZE * TIMES]
    first, last = calls.iloc[0], calls.iloc[-1]
    assert first["ts_ns"] <= rows["noticed_ns"][0] <= first["ts_ns"] + first["duration_ns"]
    assert last["ts_ns"] <= rows["copied_ns"][0] <= last["ts_ns"] + last["duration_ns"]
    assert_closed(trace)


def test_data_older_than_the_trace_has_no_known_age(program: Program, tmp_path: Path) -> None:
    left, right = tcp_pair()

    def receive() -> None:
        right.recv(SIZE)

    with left, right:
        left.send(b"x" * SIZE)
        trace, _ = record(program, tmp_path / "trace", receive)
    assert trace.deliveries["bytes"].tolist() == [SIZE]
    assert trace.deliveries["ready_ns"].isna().all()
    assert trace.deliveries["copied_ns"].notna().all()
    assert_closed(trace)


def test_several_datagrams_in_one_call_are_as_many_deliveries(
    program: Program, tmp_path: Path
) -> None:
    left, right = udp_pair()
    sizes = [3 * number + 1 for number in range(TIMES)]

    with left, right, gate() as (wait, release):

        def receive() -> list[int]:
            right.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                right.recv(1)  # from here on the socket is known
            right.send(b".")
            wait()
            return recvmmsg(right, TIMES, 100)

        def send(target: Any) -> None:
            left.recv(1)
            asleep(target.pid)
            for size in sizes:
                deliver(left, right, b"x" * size)
            release()

        trace, received = record(program, tmp_path / "trace", receive, send)
    assert received == sizes
    call = trace.calls.iloc[-1]
    assert call["call"] == "recvmmsg"
    assert call["result"] == TIMES
    assert call["bytes"] == sum(sizes)
    assert trace.deliveries["bytes"].tolist() == sizes
    assert trace.deliveries["ready_ns"].is_monotonic_increasing
    assert_closed(trace)


def test_datagrams_to_a_program_that_polls_keep_their_own_times(
    program: Program, tmp_path: Path
) -> None:
    """UDP queues a datagram before it says so: a poller may take it in between."""
    left, right = udp_pair()
    messages = 2003

    def receive() -> None:
        right.setblocking(False)
        right.send(b".")
        got = 0
        while got < messages:
            try:
                right.recv(SIZE)
            except BlockingIOError:
                continue
            got += 1
            right.send(b".")

    def send(target: Any) -> None:
        for _ in range(messages):
            left.recv(1)
            left.send(b"x" * SIZE)

    with left, right:
        trace, _ = record(program, tmp_path / "trace", receive, send)
    rows = trace.deliveries
    assert len(rows) == messages
    assert total(rows["bytes"]) == messages * SIZE
    known = rows.dropna(subset=["ready_ns"])
    assert len(known) > 0.9 * messages
    # One message at a time: none can have become ready before the one before it was copied.
    earlier = known["copied_ns"].shift()
    assert (known["ready_ns"][1:] > earlier[1:]).all()
    assert_closed(trace)


def test_the_addresses_of_a_socket_are_known(program: Program, tmp_path: Path) -> None:
    left, right = tcp_pair()
    names = ["{}:{}".format(*end) for end in (right.getsockname(), right.getpeername())]
    inode = socket_inode(right)

    def receive() -> None:
        right.recv(SIZE)

    with left, right:
        left.send(b"x" * SIZE)
        trace, _ = record(program, tmp_path / "trace", receive)
    row = trace.sockets[trace.sockets["socket"] == inode].iloc[0]
    assert [row["local"], row["remote"]] == names
    assert trace.calls["socket"].tolist() == [inode]


def socket_inode(end: socket.socket) -> int:
    return int(Path(f"/proc/self/fd/{end.fileno()}").readlink().name[8:-1])
