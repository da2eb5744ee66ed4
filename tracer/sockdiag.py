"""What the kernel's socket diagnostics say of sockets that were open before (sock_diag(7))."""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterator
from typing import Any

from pyroute2.netlink.diag import SOCK_DIAG_BY_FAMILY, DiagSocket, MarshalDiag

from tracer.opensocket import OpenSocket

__all__ = ("listeners", "open_sockets")

_LISTENING = 1 << 10
_CLOSED = 1 << 7
"""TCP_LISTEN and TCP_CLOSE; a UDP socket that is not connected is in the latter."""
_ALL = (1 << 12) - 1


_MESSAGE = struct.Struct("=16x B 3x 4s 16s 16s 28x I")
"""A ``struct nlmsghdr``, and of ``struct inet_diag_msg`` (include/uapi/linux/inet_diag.h) the
family, the ports, the addresses and the inode."""
_PORTS = struct.Struct("!HH")


class _Quick(MarshalDiag):  # type: ignore[misc]
    """Takes of each message what is needed: pyroute2 itself decodes some thousands a second."""

    def __init__(self, protocol: int) -> None:
        super().__init__()
        self.found: list[OpenSocket] = []
        self._protocol = protocol

    def parse(self, data: bytes, *args: Any, **options: Any) -> Iterator[Any]:
        """Take all messages of a datagram, and give the last one to pyroute2: it may be the end."""
        at = last = 0
        while at + 16 <= len(data):
            length, kind = struct.unpack_from("=IH", data, at)
            if kind == SOCK_DIAG_BY_FAMILY:
                self._take(data, at)
            last, at = at, at + length
        yield from super().parse(data[last:], *args, **options)

    def _take(self, data: bytes, at: int) -> None:
        family, ports, local, remote, inode = _MESSAGE.unpack_from(data, at)
        near, far = _PORTS.unpack(ports)
        self.found.append(OpenSocket(inode, family, self._protocol, (local, near), (remote, far)))


def _dump(family: int, protocol: int, states: int) -> list[OpenSocket]:
    quick = _Quick(protocol)
    with DiagSocket() as diagnostics:
        diagnostics.set_marshal(quick)
        diagnostics.bind()
        diagnostics.get_sock_stats(family=family, protocol=protocol, states=states, extensions=0)
    return quick.found


def _inet(states: dict[int, int]) -> Iterator[OpenSocket]:
    for protocol, wanted in states.items():
        for family in (socket.AF_INET, socket.AF_INET6):
            yield from _dump(family, protocol, wanted)


def listeners(port: int) -> list[OpenSocket]:
    """Return the sockets of this network namespace that take clients at ``port``.

    Those that listen (TCP), and those that are bound and not connected (UDP).
    """
    states = {socket.IPPROTO_TCP: _LISTENING, socket.IPPROTO_UDP: _CLOSED}
    return [found for found in _inet(states) if found.local[1] == port and found.inode]


def open_sockets(inodes: Collection[int]) -> list[OpenSocket]:
    """Return those of these sockets that are TCP or UDP, in this network namespace."""
    if not inodes:
        return []
    wanted = frozenset(inodes)
    states = {socket.IPPROTO_TCP: _ALL, socket.IPPROTO_UDP: _ALL}
    return [found for found in _inet(states) if found.inode in wanted]
