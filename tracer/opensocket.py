"""Sockets that were open before tracing began, and the records that stand for them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from probes.layout import KINDS, SOCKET

if TYPE_CHECKING:
    from tracer.ring import Records

__all__ = ("OpenSocket", "socket_records")


class OpenSocket(NamedTuple):
    """A TCP or UDP socket; each end is an address in network byte order, and a port, or zeros."""

    inode: int
    family: int
    protocol: int
    local: tuple[bytes, int]
    remote: tuple[bytes, int]


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
            record[f"{end}_address"] = np.void(address.ljust(16, b"\0"))
    return records
