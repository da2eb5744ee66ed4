"""In whose context data becomes ready: the kernel is made to deliver in each of them."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from analysis.load import Trace
from probes import btf
from probes.program import Program
from tests.live.recording import assert_closed, record
from tests.live.target import Target, asleep, tcp_pair
from tests.matrix.conftest import IN_LAB
from tracer.errors import IophaseError
from tracer.namespaces import Link
from tracer.network import Veth

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

TIMES = 19
DELAY_MS = 20.0
ARRIVED_S = 0.05
"""From a send to the next: what was sent has long been delivered, and all processes sleep."""
PLUG_BYTES = 1 << 20
PATIENCE = 5
"""Rounds until ksoftirqd comes first."""

THREADED_NAPI = """
mount -t sysfs sysfs /sys
test -e /sys/class/net/veth0/threaded || exit 3
echo 1 >/sys/class/net/veth0/threaded
"""
"""For a mount namespace of its own: sysfs shows the devices of the namespace that mounts it."""
SIOCETHTOOL, ETHTOOL_STSO, ETHTOOL_SGRO = 0x8946, 0x1F, 0x2C

Pair = tuple[socket.socket, socket.socket]


def unavailable(reason: str) -> NoReturn:
    """Skip; fail in the lab, whose kernels have everything."""
    if IN_LAB:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@contextlib.contextmanager
def network(link: Link) -> Iterator[Veth]:
    """Yield two namespaces joined by a veth pair; skip where this kernel makes no such link."""
    try:
        made = Veth(link)
    except IophaseError as error:
        unavailable(str(error))
    with made:
        yield made


def connected(network: Veth) -> Pair:
    """Return both ends of a TCP connection: the clients' and the server's."""
    with network.at_server(socket.create_server, (network.host("tcp"), 0)) as listener:
        left = network.at_clients(socket.create_connection, listener.getsockname())
        right, _ = listener.accept()
    left.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return left, right


def traced(
    program: Program, path: Path, pair: Pair, send: Callable[[socket.socket], object]
) -> Trace:
    """Trace a process that receives one byte after the other, asleep when each is sent."""
    left, right = pair

    def receive() -> None:
        for _ in range(TIMES):
            right.recv(1)

    def send_all(target: Target) -> None:
        for _ in range(TIMES):
            asleep(target.pid)
            send(left)
            time.sleep(ARRIVED_S)

    with left, right:
        trace, _ = record(program, path, receive, send_all)
    assert len(trace.deliveries) == TIMES
    assert_closed(trace)
    return trace


def send_byte(end: socket.socket) -> None:
    end.send(b"x")


def assert_mostly(trace: Trace, context: str) -> None:
    """Check where the data became ready; an interrupt can do what it had been left to another."""
    found = trace.deliveries["waker_context"].value_counts().to_dict()
    assert found.get(context, 0) >= 0.8 * TIMES, found


def test_data_that_a_process_sends_becomes_ready_in_its_system_call(
    best: Program, tmp_path: Path
) -> None:
    with network(Link()) as veth:
        trace = traced(best, tmp_path / "trace", connected(veth), send_byte)
    assert_mostly(trace, "process")


def test_data_that_a_timer_releases_on_an_idle_cpu_becomes_ready_in_its_softirq(
    best: Program, tmp_path: Path
) -> None:
    with network(Link(delay_ms=DELAY_MS)) as veth:
        trace = traced(best, tmp_path / "trace", connected(veth), send_byte)
    assert_mostly(trace, "softirq")


def test_data_that_a_process_sets_free_becomes_ready_in_ksoftirqd(
    best: Program, tmp_path: Path
) -> None:
    """A softirq that is raised by a process outside of softirqs is ksoftirqd's (kernel/softirq.c,
    raise_softirq_irqoff): so it is when a plug is pulled (net/sched/sch_plug.c), unless the process
    comes by a softirq of its own, or an interrupt does, before ksoftirqd runs."""
    with (
        network(Link()) as veth,
        IPRoute(netns=veth.paths["clients"].name) as clients,
    ):
        index = clients.link_lookup(ifname="veth0")[0]
        try:
            clients.tc("add", "plug", index, limit=PLUG_BYTES)
        except NetlinkError:
            unavailable("this kernel has no plug (module sch_plug)")

        def plugged(end: socket.socket) -> None:
            clients.tc("change", "plug", index, action="TCQ_PLUG_BUFFER")
            end.send(b"x")
            clients.tc("change", "plug", index, action="TCQ_PLUG_RELEASE_INDEFINITE")

        # A new plug holds everything back, and so the first connection too.
        clients.tc("change", "plug", index, action="TCQ_PLUG_RELEASE_INDEFINITE")
        found: set[str] = set()
        for number in range(PATIENCE):
            trace = traced(best, tmp_path / f"trace-{number}", connected(veth), plugged)
            found = set(trace.deliveries["waker_context"])
            assert found <= {"ksoftirqd", "process", "softirq"}
            if "ksoftirqd" in found:
                break
    assert "ksoftirqd" in found


def test_data_that_a_napi_thread_receives_becomes_ready_in_a_worker(
    best: Program, tmp_path: Path
) -> None:
    with network(Link()) as veth:
        # A veth device receives by NAPI if it has GRO, and its peer does not send large segments
        # (drivers/net/veth.c, veth_set_features and veth_skb_is_eligible_for_gro).
        veth.at_server(set_feature, ETHTOOL_SGRO, True)
        veth.at_clients(set_feature, ETHTOOL_STSO, False)
        done = veth.at_server(subprocess.run, ["unshare", "--mount", "sh", "-ec", THREADED_NAPI])
        if done.returncode == 3:
            pytest.skip("no threaded NAPI in this kernel (since v5.12, 5fdd2f0e5c64)")
        assert done.returncode == 0
        trace = traced(best, tmp_path / "trace", connected(veth), send_byte)
    assert_mostly(trace, "worker")


def set_feature(command: int, wanted: bool) -> None:
    """Switch a feature of veth0 on or off: struct ethtool_value in struct ifreq (netdevice(7))."""
    value = array.array("I", (command, wanted))
    request = struct.pack("16sQ16x", b"veth0", value.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, request)


def test_what_a_process_sends_to_itself_becomes_ready_in_its_own_time(
    best: Program, tmp_path: Path
) -> None:
    left, right = tcp_pair()

    def receive() -> None:
        for _ in range(TIMES):
            left.send(b"x")
            right.recv(1)

    with left, right:
        trace, _ = record(best, tmp_path / "trace", receive)
    assert_mostly(trace, "self")
    assert_closed(trace)


def spin_on(cpu: int) -> int:
    """Start a process that is always in user space, on one CPU; return its pid."""
    pid = os.fork()
    if pid == 0:
        os.sched_setaffinity(0, {cpu})
        while True:
            pass
    return pid


def test_data_that_a_timer_releases_on_a_busy_cpu_becomes_ready_in_its_softirq(
    best: Program, tmp_path: Path
) -> None:
    """The process that was interrupted has nothing to do with it."""
    if not btf.load().enums_with(["BPF_FUNC_task_pt_regs"]):
        pytest.skip("this kernel does not tell user space from a system call (since v5.15)")
    with network(Link(delay_ms=DELAY_MS)) as veth:
        pair = connected(veth)
        busy = [spin_on(cpu) for cpu in os.sched_getaffinity(0)]
        try:
            trace = traced(best, tmp_path / "trace", pair, send_byte)
        finally:
            for pid in busy:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    # Where a softirq has lasted too long, ksoftirqd is left to do the rest.
    found = trace.deliveries["waker_context"].value_counts().to_dict()
    assert found.get("softirq", 0) and found.get("process", 0) <= 0.2 * TIMES, found
