"""Lanes of a load: connections, how they come to stand, and how they fail."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable

from servers.load_messages import Message
from servers.load_options import Address

__all__ = ("Lane", "Lanes", "failure")

CONNECT_BURST = 5  # connections made in one go: the backlog of the article's listen(5)
CONNECT_PAUSE_S = 0.001  # between two bursts, for the server to accept them
CONNECT_PATIENCE_S = 1.5  # without progress; a dropped SYN is sent again after 1 s, RFC 6298

FAILURES = {
    errno.ECONNREFUSED: "connection refused",
    errno.ENOENT: "connection refused (no such socket)",
    errno.ECONNRESET: "connection reset by server",
    errno.EPIPE: "connection reset by server",
    errno.EADDRNOTAVAIL: "no local port left",
}


def failure(error: OSError) -> str:
    """Return the name under which this error is counted."""
    code = error.errno or 0
    return FAILURES.get(code, os.strerror(code).lower())


class Lane:
    """A place for one message at a time: a connection, or one after the other."""

    __slots__ = (
        "connected",
        "fd",
        "good",
        "got",
        "idle",
        "left",
        "message",
        "raw",
        "recv",
        "send",
        "served",
        "socket",
        "started",
        "unsent",
    )

    recv: Callable[[int], bytes]
    send: Callable[[memoryview], int]

    def __init__(self, left: int = 0, idle: bool = False) -> None:
        self.idle = idle
        self.left = left  # messages it may still begin
        self.socket: socket.socket | None = None
        self.connected = False
        self.served = False
        self.fd = -1
        self.message: Message | None = None  # the one under way
        self.started = 0  # ns; in an open loop when it was due
        self.got = 0  # bytes of the reply so far, when it comes in pieces
        self.good = True  # these bytes were right
        self.raw = bytearray()  # the pieces themselves, where the server adds a suffix
        self.unsent: memoryview | None = None


class Lanes:
    """The open sockets of a load and their epoll."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.epoll = select.epoll()
        self.by_fd: dict[int, Lane] = {}
        self.errors: Counter[str] = Counter()
        self.made = 0
        self.connecting = 0
        self.turned_away: list[Lane] = []  # by the full backlog of a unix socket, unix(7)
        self._muted: list[Lane] = []  # had news before the run, which will read it

    @property
    def pending(self) -> int:
        """Return how many are still trying to connect."""
        return self.connecting + len(self.turned_away)

    def open(self, lane: Lane) -> bool:
        """Start to connect; return False, and count the failure, if that is not possible."""
        try:
            opened = self.address.open()
        except OSError as error:
            self._count(lane, failure(error))
            return False
        code = opened.connect_ex(self.address.sockaddr)
        if code == errno.EAGAIN:
            opened.close()
            self.turned_away.append(lane)
            return True
        if code not in (0, errno.EINPROGRESS):
            opened.close()
            self._count(lane, failure(OSError(code, "")))
            return False
        lane.socket = opened
        lane.fd = opened.fileno()
        lane.recv = opened.recv
        lane.send = opened.send
        lane.connected = code == 0
        self.by_fd[lane.fd] = lane
        self.made += lane.connected
        self.connecting += not lane.connected
        self.epoll.register(lane.fd, select.EPOLLIN if lane.connected else select.EPOLLOUT)
        return True

    def settle(self, lane: Lane, mask: int) -> str | None:
        """Take in an event of a connecting lane; return why it failed, if it did."""
        assert lane.socket is not None
        code = lane.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.close(lane)
            return failure(OSError(code, ""))
        if mask & select.EPOLLOUT:
            lane.connected = True
            self.made += 1
            self.connecting -= 1
            self.epoll.modify(lane.fd, select.EPOLLIN)
        return None

    def close(self, lane: Lane) -> None:
        """Close a lane's socket, if it has one."""
        if lane.socket is None:
            return
        self.connecting -= not lane.connected
        del self.by_fd[lane.fd]
        lane.socket.close()
        lane.socket = None
        lane.connected = False
        lane.fd = -1

    def retry(self) -> list[tuple[Lane, bool]]:
        """Try those again that a full backlog turned away; return which now stand or failed."""
        again, self.turned_away = self.turned_away, []
        tried = [(lane, self.open(lane)) for lane in again]
        return [(lane, lane.connected) for lane, going in tried if lane.connected or not going]

    def unmute(self) -> None:
        """Report events again that came before the run."""
        for lane in self._muted:
            self.epoll.modify(lane.fd, select.EPOLLIN)

    def connect(self, wanted: Iterable[Lane]) -> None:
        """Connect these in their order.

        Returns when all stand, or when no further one came to stand for 1.5 s (a server that
        accepts one connection at a time); those keep trying during the run.
        """
        for k, lane in enumerate(wanted, 1):
            self.open(lane)
            if k % CONNECT_BURST == 0:
                time.sleep(CONNECT_PAUSE_S)
                self._await(0)
        limit = time.monotonic() + CONNECT_PATIENCE_S
        while self.pending and time.monotonic() < limit:
            before = self.pending
            self._await(0.01)
            if self.pending < before:
                limit = time.monotonic() + CONNECT_PATIENCE_S

    def _await(self, seconds: float) -> None:
        for fd, mask in self.epoll.poll(seconds):
            lane = self.by_fd.get(fd)
            if lane is None:
                continue
            if lane.connected:
                self.epoll.modify(fd, select.EPOLLONESHOT)
                self._muted.append(lane)
                continue
            reason = self.settle(lane, mask)
            if reason is not None:
                self._count(lane, reason)
        self.retry()

    def _count(self, lane: Lane, reason: str) -> None:
        self.errors[reason if lane.message else f"connecting: {reason}"] += 1
