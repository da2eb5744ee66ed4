"""The keeper of a network: makes two namespaces joined by a veth pair, and removes them.

``python -m tracer.namespaces LINK`` is a process of its own because it alone keeps the privileges
for that while the tool gives them up, and because it outlives the tool: when its input ends, for
whatever reason, it removes what it has made. LINK is a ``Link`` as JSON. It answers with one line
of JSON: ``server`` and ``clients``, the paths of the two namespaces, and ``removed``, the names of
those that an earlier keeper had left; or ``error``.

See network_namespaces(7), ip-netns(8), veth(4), tc-netem(8), tc-tbf(8).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyroute2 import IPRoute

__all__ = ("ADDRESSES", "FOLDER", "MAKE_S", "SIDES", "Link", "main")

FOLDER = Path("/run/netns")
"""Where ip-netns(8) keeps the names of network namespaces."""
SIDES = ("server", "clients")
ADDRESSES = {
    "server": {"tcp": "192.0.2.1", "tcp6": "2001:db8::1"},
    "clients": {"tcp": "192.0.2.2", "tcp6": "2001:db8::2"},
}
"""Of the blocks for documentation (RFC 5737, RFC 3849): nothing else has them."""
_IPV4_BITS, _IPV6_BITS = 24, 64
_NAME = re.compile(r"iophase-(\d+)-(\d+)-(?:server|clients)")

_NETEM_PACKETS = 100_000
"""Packets that netem holds at most: its 1,000 would drop all beyond 100,000 a second at 10 ms."""
_TBF_BURST_S = 0.01
"""A bucket that lasts from one timer tick to the next even at 100 Hz, as tc-tbf(8) demands."""
_TBF_BURST_BYTES = 16_000
"""At least a few packets of 1,514 bytes."""
_TBF_QUEUE = "100ms"
"""What waits longer in the queue of tbf is dropped."""
MAKE_S = 120
"""It is made within a second, emulated on a busy machine in half a minute; later it is stuck.

pyroute2 gives a process that is to enter a namespace 2 s."""
_NODAD = 0x02  # IFA_F_NODAD: the IPv6 address can be used at once
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class Link:
    """What the way between server and clients does to packets, in each direction.

    ``delay_ms`` on each way, so a round trip takes twice that; ``loss_percent`` of all packets;
    ``bandwidth_mbit`` in 10^6 bit/s, None: no limit.
    """

    delay_ms: float = 0.0
    loss_percent: float = 0.0
    bandwidth_mbit: float | None = None

    def problem(self) -> str | None:
        """Say what is wrong with these figures, if anything is."""
        if not 0 <= self.delay_ms <= 60_000:
            return "--delay: 0 to 60000 ms"
        if not 0 <= self.loss_percent < 100:
            return "--loss: 0 to less than 100 percent"
        if self.bandwidth_mbit is not None and not 0.1 <= self.bandwidth_mbit <= 34_000:
            return "--bandwidth: 0.1 to 34000 Mbit/s"
        return None


class _RefusedError(Exception):
    """The kernel does not give what a network needs."""


def _birth(pid: int) -> int:
    """Return when a process was started, in clock ticks since boot; 0 if it has ended (proc(5))."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = status.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def _abandoned() -> list[str]:
    """Return the names of namespaces whose keeper is gone: its number may be another's by now."""
    if not FOLDER.is_dir():
        return []
    matches = map(_NAME.fullmatch, sorted(os.listdir(FOLDER)))  # noqa: PTH208
    return [match[0] for match in matches if match and _birth(int(match[1])) != int(match[2])]


def _remove(name: str) -> bool:
    """Remove a namespace; say whether it was there: another keeper may have been faster."""
    from pyroute2 import netns

    try:
        netns.remove(name)
    except FileNotFoundError:
        return False
    return True


def _remove_abandoned() -> list[str]:
    """Return the names of those that were removed."""
    removed = []
    for name in _abandoned():
        with _explained(name, f"{name}: gone"):
            if _remove(name):
                removed.append(name)
    return removed


@contextlib.contextmanager
def _explained(what: str, absent: str) -> Iterator[None]:
    """Turn a refusal of the kernel into a line that says what to do."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except (NetlinkError, OSError) as error:
        code = getattr(error, "code", None) or getattr(error, "errno", None)
        if code in (errno.EPERM, errno.EACCES):
            raise _RefusedError("needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN): use sudo") from error
        if code in (errno.ENOENT, errno.EOPNOTSUPP):
            raise _RefusedError(absent) from error
        raise _RefusedError(f"{what}: {os.strerror(code) if code else error}") from error


def _name(side: str) -> str:
    return f"iophase-{os.getpid()}-{_birth(os.getpid())}-{side}"


def _make(link: Link) -> None:
    from pyroute2 import IPRoute, netns

    for side in SIDES:
        with _explained("network namespace", "this kernel has no network namespaces"):
            netns.create(_name(side))
    with contextlib.ExitStack() as stack:
        ends = {side: stack.enter_context(IPRoute(netns=_name(side))) for side in SIDES}
        with _explained("veth pair", "this kernel has no veth devices (module veth)"):
            ends["server"].link(
                "add",
                ifname="veth0",
                kind="veth",
                peer={"ifname": "veth0", "net_ns_fd": _name("clients")},
            )
        for side, end in ends.items():
            _bring_up(end, side, link)


def _bring_up(end: IPRoute, side: str, link: Link) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    index = end.link_lookup(ifname="veth0")[0]
    with _explained("address", "the kernel takes no IPv4 address"):
        end.addr("add", index=index, address=ADDRESSES[side]["tcp"], prefixlen=_IPV4_BITS)
    with contextlib.suppress(NetlinkError):  # a kernel without IPv6: over tcp6 no server can listen
        address = ADDRESSES[side]["tcp6"]
        end.addr("add", index=index, address=address, prefixlen=_IPV6_BITS, flags=_NODAD)
    _shape(end, index, link)
    with _explained("veth pair", "the veth pair is gone"):
        end.link("set", index=end.link_lookup(ifname="lo")[0], state="up")
        end.link("set", index=index, state="up")


def _shape(end: IPRoute, index: int, link: Link) -> None:
    """Delay and drop by netem, then limit by tbf, which netem can have below it: tc-netem(8)."""
    above: dict[str, str] = {}
    if link.delay_ms or link.loss_percent:
        absent = "this kernel has no netem (module sch_netem): leave out --delay and --loss"
        with _explained("netem", absent):
            end.tc(
                "add",
                "netem",
                index,
                handle="1:",
                delay=round(link.delay_ms * 1000),
                loss=link.loss_percent,
                limit=_NETEM_PACKETS,
            )
        above = {"parent": "1:1"}
    if link.bandwidth_mbit is not None:
        bytes_per_s = link.bandwidth_mbit * 1e6 / 8
        with _explained("tbf", "this kernel has no tbf (module sch_tbf): leave out --bandwidth"):
            end.tc(
                "add",
                "tbf",
                index,
                handle="2:",
                rate=round(bytes_per_s),
                burst=max(_TBF_BURST_BYTES, round(bytes_per_s * _TBF_BURST_S)),
                latency=_TBF_QUEUE,
                **above,
            )


def _wait_for_the_end() -> None:
    """Return when the tool is gone, or a signal has come since ``main`` began.

    Only here signals are let in: pyroute2 forks. A handler only wakes, for nothing is to interrupt
    the removal.
    """
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in _ENDING:
        signal.signal(number, lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    select.select([sys.stdin, woken], [], [])


def _answer(**fields: object) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(fields), flush=True)


def main(argv: list[str]) -> int:
    """Make the network, wait for the end of the input, remove it; return the exit code."""
    from pyroute2 import config

    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    config.default_communicate_timeout = config.default_create_socket_timeout = MAKE_S
    try:
        removed = _remove_abandoned()
        _make(Link(**json.loads(argv[0])))
        _answer(**{side: str(FOLDER / _name(side)) for side in SIDES}, removed=removed)
        _wait_for_the_end()
    except _RefusedError as error:
        _answer(error=str(error))
        return 1
    finally:
        for side in SIDES:
            _remove(_name(side))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
