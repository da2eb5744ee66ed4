"""What the kernel's socket diagnostics say of sockets that were open before (sock_diag(7))."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from probes.layout import KINDS, SOCKET

if TYPE_CHECKING:
    from tracer.ring import Records

__all__ = ("OpenSocket", "listeners", "open_sockets", "socket_records")

_LISTENING = 1 << 10
_CLOSED = 1 << 7
"""TCP_LISTEN and TCP_CLOSE; a UDP socket that is not connected is in the latter."""
_ALL = (1 << 12) - 1


class OpenSocket(NamedTuple):
    """A TCP or UDP socket; addresses as printed, ports 0 where there is none."""

    inode: int
    family: int
    protocol: int
    local: tuple[str, int]
    remote: tuple[str, int]


def _dump(family: int, protocol: int, states: int) -> Iterator[OpenSocket]:
    from pyroute2 import DiagSocket

    with DiagSocket() as diagnostics:
        diagnostics.bind()
        for found in diagnostics.get_sock_stats(
            family=family, protocol=protocol, states=states, extensions=0
        ):
            yield OpenSocket(
                found["idiag_inode"],
                found["idiag_family"],
                protocol,
                (found["idiag_src"], found["idiag_sport"]),
                (found["idiag_dst"], found["idiag_dport"]),
            )


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


def socket_records(sockets: Collection[OpenSocket], pid: int, now_ns: int) -> Records:
    """Return sockets as SOCKET records, seen at ``now_ns`` by process ``pid``."""
    records = np.zeros(len(sockets), SOCKET)
    records["kind"] = KINDS["SOCKET"]
    records["ts"], records["pid"], records["tid"] = now_ns, pid, pid
    for record, found in zip(records, sockets, strict=True):
        record["socket"], record["family"] = found.inode, found.family
        record["protocol"] = found.protocol
        for end, (address, port) in (("local", found.local), ("remote", found.remote)):
            record[f"{end}_port"] = port
            record[f"{end}_address"] = _packed(found.family, address)
    return records


def _packed(family: int, address: str) -> Any:
    return np.void(socket.inet_pton(family, address).ljust(16, b"\0"))
