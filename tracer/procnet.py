"""The addresses of sockets by /proc/PID/net: of processes in another network namespace, too."""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterator
from pathlib import Path

from tracer.opensocket import OpenSocket

__all__ = ("open_sockets_of", "same_network")

_FILES = (
    ("tcp", socket.AF_INET, socket.IPPROTO_TCP),
    ("tcp6", socket.AF_INET6, socket.IPPROTO_TCP),
    ("udp", socket.AF_INET, socket.IPPROTO_UDP),
    ("udp6", socket.AF_INET6, socket.IPPROTO_UDP),
)


def same_network(pid: int) -> bool:
    """Return whether a process is in this network namespace; True if it is gone."""
    try:
        return Path(f"/proc/{pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink()
    except OSError:
        return True


def open_sockets_of(pid: int, inodes: Collection[int]) -> list[OpenSocket]:
    """Return those of these sockets that are TCP or UDP, in the network namespace of ``pid``."""
    return list(_sockets(pid, frozenset(inodes)))


def _sockets(pid: int, inodes: frozenset[int]) -> Iterator[OpenSocket]:
    for name, family, protocol in _FILES:
        try:
            lines = Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
        except OSError:  # it is gone, or there is no IPv6
            continue
        for line in lines:
            fields = line.split()
            if (inode := int(fields[9])) in inodes:
                local, remote = _end(fields[1]), _end(fields[2])
                yield OpenSocket(inode, family, protocol, local, remote)


def _end(text: str) -> tuple[bytes, int]:
    """Parse ``0100007F:1F90``: the address as 32-bit words of this machine (tcp_ipv4.c)."""
    address, _, port = text.partition(":")
    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
    return struct.pack(f"={len(words)}I", *words), int(port, 16)
