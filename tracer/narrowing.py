"""What of a recording is written: the rows of some threads, descriptors or peers only."""

from __future__ import annotations

import ipaddress
from argparse import Namespace
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer.addresses import printed_addresses
from tracer.errors import USAGE, IophaseError
from tracer.ring import Records

__all__ = ("Narrowing", "narrowing")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Narrowing:
    """Rows must meet every condition that is not empty.

    A peer is an address, a network (``10.0.0.0/8``), or either with a port: ``10.1.2.3:80``,
    ``[::1]:80``. Calls on many descriptors, such as ``poll``, stay: they tell how a thread waits.
    """

    tids: tuple[int, ...] = ()
    fds: tuple[int, ...] = ()
    peers: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.tids or self.fds or self.peers)

    def as_dict(self) -> dict[str, Any] | None:
        """Return the conditions for ``trace.json``; None when there are none."""
        return {name: list(wanted) for name, wanted in asdict(self).items() if wanted} or None

    @classmethod
    def from_dict(cls, conditions: dict[str, Any] | None) -> Narrowing:
        """Return what ``as_dict`` was made of."""
        return cls(**{name: tuple(wanted) for name, wanted in (conditions or {}).items()})

    def calls(self, records: Records, sockets: Records) -> Mask:
        """Return which CALL and DELIVERY records are wanted; ``sockets`` are all SOCKET records."""
        wanted = self.threads(records)
        many = records["socket"] == 0
        if self.fds:
            wanted &= many | np.isin(records["fd"], self.fds)
        if self.peers:
            wanted &= many | np.isin(records["socket"], self._of_peers(sockets))
        return wanted

    def threads(self, records: Records) -> Mask:
        """Return which records are of wanted threads."""
        if not self.tids:
            return np.ones(len(records), bool)
        return np.isin(records["tid"], self.tids)

    def _of_peers(self, sockets: Records) -> NDArray[np.uint64]:
        """Return the inodes of the sockets whose other end is a wanted peer."""
        peers = [_parsed(peer) for peer in self.peers]
        remote = printed_addresses(sockets, "remote")
        matching = {end for end in set(remote) - {None} if _is_one_of(str(end), peers)}
        chosen: NDArray[np.uint64] = sockets["socket"][[end in matching for end in remote]]
        return chosen


def _parsed(peer: str) -> tuple[Network, int | None]:
    host, colon, port = peer, "", ""
    if peer.startswith("["):
        host, bracket, rest = peer[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        if not bracket or colon not in ("", ":"):
            raise ValueError(f"{peer!r} is not written [ADDRESS]:PORT")
    elif peer.count(":") == 1:
        host, colon, port = peer.partition(":")
    if colon and not (port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"{port!r} is not a port, 1 to 65535")
    return ipaddress.ip_network(host, strict=False), int(port) if port else None


def _is_one_of(remote: str, peers: list[tuple[Network, int | None]]) -> bool:
    host, _, port = remote.rpartition(":")
    address = ipaddress.ip_address(host.strip("[]"))
    mapped = getattr(address, "ipv4_mapped", None)
    return any(
        (address in network or (mapped is not None and mapped in network))
        and wanted in (None, int(port))
        for network, wanted in peers
    )


def narrowing(args: Namespace) -> Narrowing:
    """Return what the arguments say; raise ``IophaseError`` for nonsense."""
    for peer in args.peer:
        try:
            _parsed(peer)
        except ValueError as error:
            raise IophaseError(f"--peer {peer}: not an address: {error}", USAGE) from None
    return Narrowing(_numbers("-t", args.tid, 1), _numbers("--fd", args.fd, 0), tuple(args.peer))


def _numbers(option: str, text: str | None, least: int) -> tuple[int, ...]:
    try:
        numbers = tuple(map(int, text.split(","))) if text else ()
    except ValueError:
        numbers = (-1,)
    if any(number < least for number in numbers):
        raise IophaseError(f"{option} {text}: not a list of numbers", USAGE)
    return numbers
