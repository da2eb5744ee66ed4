"""What a load is: its options, where it goes, and how it can fail."""

from __future__ import annotations

import math
import os
import resource
import socket
from dataclasses import dataclass, replace
from typing import Any

__all__ = ("Address", "LoadError", "LoadOptions", "parse_address", "raise_descriptor_limit")

USAGE = 2
DEFAULT_DURATION_S = 5.0
MAX_DATAGRAM = 65_507  # 65,535 less the IPv4 and UDP headers; see udp(7)
MAX_UNIX_BYTES = 107  # of a path: sun_path less its NUL; see unix(7)
MAX_MESSAGE = 64 << 20  # bytes; the text that messages are cut from is made beforehand
MAX_BURST = 1_000_000
MAX_CONNECTIONS = 1_000_000
MAX_RATE = 1e9  # messages/s: the schedule is in nanoseconds
MAX_GAP_US = 60_000_000
DESCRIPTORS_BESIDE_SOCKETS = 32  # standard streams, epoll, timer, libraries


class LoadError(Exception):
    """A load that cannot be made; the message names the object, the cause and what to do.

    `exit_code` is 1, or 2 where the address or the options are wrong.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Address:
    """Where a server listens: `transport` is tcp, udp or unix; `label` is how the user wrote it."""

    transport: str
    family: socket.AddressFamily
    sockaddr: Any
    label: str

    def open(self) -> socket.socket:
        """Return an unconnected, non-blocking socket of this transport."""
        kind = socket.SOCK_DGRAM if self.transport == "udp" else socket.SOCK_STREAM
        opened = socket.socket(self.family, kind | socket.SOCK_NONBLOCK)
        if self.transport == "tcp":
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return opened


def parse_address(text: str) -> Address:
    """Return the address that `[tcp:|udp:]HOST:PORT` or `unix:PATH` names; raise LoadError."""
    if text.startswith("unix:") and len(text) > len("unix:"):
        path = text.removeprefix("unix:")
        name = "\0" + path[1:] if path.startswith("@") else path  # unix(7), abstract sockets
        if len(os.fsencode(name)) > MAX_UNIX_BYTES:
            raise LoadError(f"{text}: longer than a unix socket's {MAX_UNIX_BYTES} bytes", USAGE)
        return Address("unix", socket.AF_UNIX, name, text)
    transport = "udp" if text.startswith("udp:") else "tcp"
    host, colon, port = text.removeprefix("udp:").removeprefix("tcp:").rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise LoadError(
            f"{text}: not an address; write HOST:PORT, udp:HOST:PORT or unix:PATH", USAGE
        )
    host = host.strip("[]") or "localhost"
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    try:
        family, _, _, _, sockaddr = socket.getaddrinfo(host, int(port), type=kind)[0]
    except (OSError, UnicodeError) as error:  # no name of a host can be written so: RFC 3490
        reason = error.strerror if isinstance(error, OSError) else "not a name of a host"
        raise LoadError(f"{text}: host not found ({reason}); check the name") from error
    return Address(transport, family, sockaddr, text)


@dataclass(frozen=True)
class LoadOptions:
    """A load. Without `rate` it is a closed loop: a connection sends when its reply is there.

    connections: busy connections, one outstanding message each; idle: silent ones beside them.
    sizes: bytes of a message; of several, each message takes one at random.
    rate: messages/s over all connections (open loop: latency counts from the intended time),
    their arrivals `constant` or `poisson`, in bursts of `burst` at the same instant.
    duration: seconds in which messages begin; messages: end after exactly so many. In a closed
    loop the messages are dealt out evenly, and a connection closes when it has sent its share;
    so a server that serves one connection at a time comes to serve them all.
    per_request: a new connection for each message. byte_gap_us: send one byte at a time, with
    this pause in microseconds. suffix: what the server adds to each of its replies.
    timeout: seconds without any reply after which all is given up; over UDP, and with a
    connection per request, a message is given up alone, and all after three times that.
    processes: processes that share the work.
    """

    connections: int = 10
    idle: int = 0
    sizes: tuple[int, ...] = (64,)
    rate: float | None = None
    arrivals: str = "constant"
    burst: int = 1
    duration: float | None = None
    messages: int | None = None
    per_request: bool = False
    byte_gap_us: int | None = None
    suffix: str = ""
    timeout: float = 5.0
    processes: int = 1
    seed: int = 1

    def problem(self, transport: str) -> str | None:
        """Say what is wrong with this load over `transport` (tcp, udp or unix), if anything is."""
        wrong = [
            (self.connections < 1, "connections: at least 1"),
            (self.idle < 0, "idle: at least 0"),
            (
                self.connections + self.idle > MAX_CONNECTIONS,
                f"connections, with the idle ones: at most {MAX_CONNECTIONS}",
            ),
            (not self.sizes or min(self.sizes) < 1, "size: at least 1 byte"),
            (max(self.sizes, default=0) > MAX_MESSAGE, f"size: at most {MAX_MESSAGE} bytes"),
            (
                transport == "udp" and max(self.sizes, default=0) > MAX_DATAGRAM,
                f"size: a datagram holds at most {MAX_DATAGRAM} bytes",
            ),
            (transport == "udp" and self.byte_gap_us is not None, "byte gap: not over UDP"),
            (transport == "udp" and self.per_request, "UDP has no connection per request"),
            (not _positive(self.rate), "rate: above 0 messages/s"),
            ((self.rate or 0) > MAX_RATE, f"rate: at most {MAX_RATE:.0f} messages/s"),
            (self.arrivals not in ("constant", "poisson"), "arrivals: constant or poisson"),
            (self.arrivals == "poisson" and self.rate is None, "Poisson arrivals: need a rate"),
            (not 1 <= self.burst <= MAX_BURST, f"burst: 1 to {MAX_BURST}"),
            (self.burst > 1 and self.rate is None, "burst: needs a rate"),
            (not _positive(self.duration), "duration: above 0 seconds"),
            (self.messages is not None and self.messages < 1, "messages: at least 1"),
            (
                not 0 <= (self.byte_gap_us or 0) <= MAX_GAP_US,
                f"byte gap: 0 to {MAX_GAP_US} microseconds",
            ),
            (not _positive(self.timeout), "timeout: above 0 seconds"),
            (not 1 <= self.processes <= self.connections, "processes: 1 to connections"),
        ]
        return next((rule for is_wrong, rule in wrong if is_wrong), None)

    def checked(self, address: Address) -> LoadOptions:
        """Return the options with the default duration filled in; raise LoadError if unusable."""
        if (problem := self.problem(address.transport)) is not None:
            raise LoadError(f"load on {address.label}: {problem}", USAGE)
        if self.duration is None and self.messages is None:
            return replace(self, duration=DEFAULT_DURATION_S)
        return self

    def share(self, index: int) -> LoadOptions:
        """Return the part of this load that process `index` of `processes` makes."""

        def part(total: int) -> int:
            return total // self.processes + (index < total % self.processes)

        return replace(
            self,
            connections=part(self.connections),
            idle=part(self.idle),
            rate=None if self.rate is None else self.rate / self.processes,
            messages=None if self.messages is None else part(self.messages),
            seed=self.seed + index,
        )


def _positive(number: float | None) -> bool:
    """Say whether a number, if there is one, is above 0 and has an end; NaN is neither."""
    return number is None or 0 < number < math.inf


def raise_descriptor_limit(sockets: int) -> str | None:
    """Make room for so many sockets; return a note if the limit was raised; raise LoadError."""
    needed = sockets + DESCRIPTORS_BESIDE_SOCKETS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed <= soft:
        return None
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(needed, hard)))
    except (ValueError, OSError) as error:
        raise LoadError(
            f"{sockets} connections need {needed} descriptors, and the limit is {hard}: "
            f"raise it (ulimit -Hn {needed}, as root; process {os.getpid()}) or use fewer"
        ) from error
    return f"descriptor limit raised from {soft} to {needed}"
