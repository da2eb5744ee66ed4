"""Receives that are asked for before there is data, by four asynchronous interfaces.

The asking thread never chooses to wait: until it sees in its own memory that the receive is
complete, it counts. Its partner is a process of its own, which sends a little later.

aio(7), io_submit(2), io_uring(7)
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from servers.native import address_of
from tracer.trials.trial import run, tcp_pair

__all__ = ("INTERFACES", "trial")

ROUNDS = 41
SIZE = 16_384
LATER_S = 0.005
"""The partner's pause: far longer than asking takes, so that there is no data yet."""
PATIENCE_S = 10.0
SIGEV_NONE = 1

Receive = Callable[[], Callable[[], bool]]
"""Asks for a receive, and returns what tells whether it is complete."""


def _partner(near: socket.socket, far: socket.socket) -> int:
    """Fork the sender; return the descriptor that gives it a sign."""
    signs, sign = os.pipe()
    if os.fork() == 0:
        os.close(sign)
        near.close()
        message = bytes(SIZE)
        while os.read(signs, 1):
            time.sleep(LATER_S)
            far.sendall(message)
        os._exit(0)
    os.close(signs)
    far.close()
    return sign


def _posix_aio(near: socket.socket) -> Receive:
    from servers.posix_aio_server import ControlBlock

    libc = ctypes.CDLL(None, use_errno=True)
    buffer = bytearray(SIZE)
    request = ControlBlock(aio_fildes=near.fileno(), aio_nbytes=SIZE, sigev_notify=SIGEV_NONE)
    reference = ctypes.byref(request)

    def complete() -> bool:
        if libc.aio_error(reference) == errno.EINPROGRESS:
            return False
        libc.aio_return(reference)
        return True

    def receive() -> Callable[[], bool]:
        request.aio_buf = address_of(buffer)
        if libc.aio_read(reference):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return complete

    return receive


def _native_aio(near: socket.socket) -> Receive:
    from servers.aio import PREAD, Context

    context, buffer = Context(1), bytearray(SIZE)

    def complete() -> bool:
        return bool(context.events())

    def receive() -> Callable[[], bool]:
        context.submit(PREAD, near.fileno(), address_of(buffer), SIZE)
        return complete

    return receive


def _io_uring(near: socket.socket, polled: bool) -> Receive:
    from servers.io_uring import ENTER_SQ_WAKEUP, RECV, SETUP_SQPOLL, Ring

    class LookedAt(Ring):
        """A ring that is looked at in memory, without entering the kernel."""

        def submit(self) -> None:
            self._enter(ENTER_SQ_WAKEUP if self._polled else 0)

        def complete(self) -> bool:
            head = self._words[self._cq_head]
            if head == self._words[self._cq_tail]:
                return False
            self._words[self._cq_head] = (head + 1) & 0xFFFFFFFF
            return True

    ring, buffer = LookedAt(SETUP_SQPOLL if polled else 0), bytearray(SIZE)

    def receive() -> Callable[[], bool]:
        ring.prepare(RECV, near.fileno(), address_of(buffer), SIZE)
        ring.submit()
        return ring.complete

    return receive


INTERFACES: dict[str, Callable[[socket.socket], Receive]] = {
    "posix-aio": _posix_aio,
    "native-aio": _native_aio,
    "io_uring": lambda near: _io_uring(near, polled=False),
    "io_uring-sqpoll": lambda near: _io_uring(near, polled=True),
}


def trial(interface: str) -> dict[str, Any]:
    """Receive ``ROUNDS`` times; ``counted`` is how far the thread got meanwhile."""
    near, far = tcp_pair()
    sign = _partner(near, far)
    receive = INTERFACES[interface](near)
    counted = 0
    for _ in range(ROUNDS):
        limit = time.monotonic() + PATIENCE_S
        os.write(sign, b"\n")
        complete = receive()
        while not complete():
            counted += 1
            if time.monotonic() > limit:
                raise TimeoutError(f"{interface}: no receive was complete in {PATIENCE_S:.0f} s")
    os.close(sign)
    os.wait()
    return {"rounds": ROUNDS, "counted": counted}


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("interface", choices=INTERFACES)
    interface = parser.parse_args().interface
    run(lambda: trial(interface))


if __name__ == "__main__":
    _main()
