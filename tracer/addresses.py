"""Prints the addresses of many sockets at once: ``127.0.0.1:8080``, ``[::1]:80``."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer.ring import Records

__all__ = ("families", "printed_addresses", "protocols")

_OCTETS = np.array([str(octet) for octet in range(256)], np.dtypes.StringDType())

_FAMILIES = {
    int(socket.AF_UNIX): "unix",
    int(socket.AF_INET): "inet",
    int(socket.AF_INET6): "inet6",
    int(socket.AF_NETLINK): "netlink",
    int(socket.AF_PACKET): "packet",
    int(socket.AF_VSOCK): "vsock",
}

_PROTOCOLS = {
    socket.IPPROTO_ICMP: "icmp",
    socket.IPPROTO_TCP: "tcp",
    socket.IPPROTO_UDP: "udp",
    socket.IPPROTO_ICMPV6: "icmpv6",
    socket.IPPROTO_SCTP: "sctp",
    socket.IPPROTO_UDPLITE: "udplite",
    socket.IPPROTO_RAW: "raw",
    262: "mptcp",  # IPPROTO_MPTCP of <linux/in.h>; Python 3.11 lacks it
}

Strings = NDArray[np.object_]
"""Strings, and None for what is unknown."""


def _named(codes: NDArray[np.uint16], names: dict[int, str]) -> Strings:
    """Return the name of each code, or its number where it has none."""
    unique, inverse = np.unique(codes, return_inverse=True)
    table = np.array([names.get(int(code), str(code)) for code in unique], object)
    return table[inverse]


def families(records: Records) -> Strings:
    """Return the address family of each SOCKET record: ``inet``, ``inet6``, ``unix``, ..."""
    return _named(records["family"], _FAMILIES)


def protocols(records: Records) -> Strings:
    """Return the protocol of each SOCKET record, None where its family has none (unix)."""
    names = _named(records["protocol"], _PROTOCOLS)
    names[records["protocol"] == 0] = None
    return names


def printed_addresses(records: Records, end: str) -> Strings:
    """Return the ``local`` or ``remote`` address of each SOCKET record, with its port.

    None where there is none: another family, or an end that is not bound or connected.
    """
    family = records["family"]
    octets = np.frombuffer(records[f"{end}_address"].tobytes(), np.uint8).reshape(-1, 16)
    port = records[f"{end}_port"]
    printed = np.full(len(records), None, object)
    bound = octets.any(axis=1) | (port != 0)
    for number, host in ((socket.AF_INET, _ipv4), (socket.AF_INET6, _ipv6)):
        mine = (family == number) & bound
        if mine.any():
            ports = port[mine].astype(np.dtypes.StringDType())
            printed[mine] = (host(octets[mine]) + ":" + ports).astype(object)
    return printed


def _ipv4(octets: NDArray[np.uint8]) -> NDArray[Any]:
    a, b, c, d = (_OCTETS[octets[:, position]] for position in range(4))
    text: NDArray[Any] = a + "." + b + "." + c + "." + d
    return text


def _ipv6(octets: NDArray[np.uint8]) -> NDArray[Any]:
    """Print each different address once: a server has one, its clients' hosts are few."""
    unique, inverse = np.unique(octets, axis=0, return_inverse=True)
    hosts = [f"[{_ipv6_host(address.tobytes())}]" for address in unique]
    table: NDArray[Any] = np.array(hosts, np.dtypes.StringDType())
    return table[inverse.reshape(-1)]


def _ipv6_host(address: bytes) -> str:
    """Print an address; one of an IPv4 client of an IPv6 socket as RFC 5952 recommends (5.)."""
    host = ipaddress.IPv6Address(address)
    return str(host) if host.ipv4_mapped is None else f"::ffff:{host.ipv4_mapped}"
