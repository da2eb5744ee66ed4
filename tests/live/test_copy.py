"""Large receives: the copy is measured, grows with the size, and is as fast as a copy can be."""

from __future__ import annotations

import array
import ctypes
import fcntl
import itertools
import os
import socket
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from probes.program import Program
from tests.live.recording import assert_closed, record

pytestmark = pytest.mark.live

SIZES = (256 << 10, 512 << 10, 1 << 20, 2 << 20)
TIMES = 11
QUEUED = max(SIZES)
"""What lies in the queue before each receive: all sizes are taken under the same conditions."""
WINDOW = 16 << 20
"""Holds that whole, with the kernel's bookkeeping."""
MEMCPY_ROUNDS = 15
LEAST = 0.3
NOISE = 1.1
"""No copy is faster than memcpy; two measurements of the same speed differ by so much."""
CACHE_BYTES = 16 << 20
"""More than a core's own caches: what was in them is no longer."""
SO_RCVBUFFORCE = 33


def wide_pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection whose receiver holds a whole message."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, WINDOW)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    return left, right


def queued(end: socket.socket) -> int:
    answer = array.array("i", [0])
    fcntl.ioctl(end, termios.FIONREAD, answer)
    return answer[0]


def forget_caches(scratch: ctypes.Array[ctypes.c_char]) -> None:
    """Make the next copy come from memory: small ones would be four times as fast."""
    ctypes.memset(scratch, 0, len(scratch))


def memcpy_ns(size: int, scratch: ctypes.Array[ctypes.c_char]) -> int:
    """Return what a memcpy of this size takes at best."""
    source, target = (ctypes.create_string_buffer(b"x" * size, size) for _ in range(2))
    took = []
    for _ in range(MEMCPY_ROUNDS):
        forget_caches(scratch)
        began = time.perf_counter_ns()
        ctypes.memmove(target, source, size)
        took.append(time.perf_counter_ns() - began)
    return min(took)


def kernel_copy_ns(size: int, scratch: ctypes.Array[ctypes.c_char]) -> int:
    """Return what the kernel takes at best to copy as much from a file in memory.

    That is the same routine, which an emulator runs at another speed than memcpy's.
    """
    buffer = bytearray(size)
    file = os.memfd_create("copied")
    try:
        os.write(file, b"x" * size)
        took = []
        for _ in range(MEMCPY_ROUNDS):
            forget_caches(scratch)
            began = time.perf_counter_ns()
            assert os.preadv(file, [buffer], 0) == size
            took.append(time.perf_counter_ns() - began)
    finally:
        os.close(file)
    return min(took)


def test_the_copy_of_large_receives_grows_with_size_at_the_speed_of_memory(
    program: Program, tmp_path: Path
) -> None:
    left, right = wide_pair()

    def receive() -> dict[str, list[int]]:
        buffer = bytearray(QUEUED)
        scratch = ctypes.create_string_buffer(CACHE_BYTES)
        for _ in range(TIMES):
            for size in SIZES:
                right.send(b".")
                while queued(right) < QUEUED:
                    time.sleep(0.0005)
                forget_caches(scratch)
                assert right.recv_into(buffer, size) == size
                rest = QUEUED - size
                assert len(os.read(right.fileno(), QUEUED)) == rest if rest else True
        return {
            name: [function(size, scratch) for size in SIZES]
            for name, function in (("memcpy", memcpy_ns), ("kernel", kernel_copy_ns))
        }

    def send(target: Any) -> None:
        for _ in range(len(SIZES) * TIMES):
            left.recv(1)
            left.sendall(b"x" * QUEUED)

    with left, right:
        trace, others = record(program, tmp_path / "trace", receive, send)
    rows = trace.calls[trace.calls["call"] == "recvfrom"]
    assert (trace.calls["copy_ns"] > 0).all()
    assert rows["result"].tolist() == list(SIZES) * TIMES
    copy = {size: float(rows[rows["result"] == size]["copy_ns"].min()) for size in SIZES}
    # Each changes its way with the size: the fastest of it counts.
    memcpy, kernel = (
        max(size / took for size, took in zip(SIZES, others[name], strict=True))
        for name in ("memcpy", "kernel")
    )
    for size in SIZES:
        assert LEAST * kernel <= size / copy[size] <= NOISE * max(memcpy, kernel), (others, copy)
    for smaller, larger in itertools.pairwise(SIZES):
        assert 1.4 <= copy[larger] / copy[smaller] <= 3, copy
    proportion = copy[SIZES[-1]] / copy[SIZES[0]]
    assert 0.5 <= proportion / (SIZES[-1] / SIZES[0]) <= 1.5, copy
    assert_closed(trace)
