"""Network namespaces: server and clients apart, shaped as asked, and gone whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.servers.client import within
from tracer.errors import IophaseError
from tracer.namespaces import FOLDER, MAKE_S, SIDES, Link
from tracer.network import Loopback, Veth
from tracer.privileges import effective

pytestmark = pytest.mark.skipif(
    "CAP_SYS_ADMIN" not in effective(), reason="namespaces need CAP_SYS_ADMIN: run with sudo"
)

GONE_S = 10.0
HELD_UP_S = 3.0
"""Longer than pyroute2 waits by itself."""
NOBODY = 65534
CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
MBIT = 8.0
BYTES = 500_000
LOSS = 20.0
DATAGRAMS, ROUNDS = 1000, 10
QUIET_S = 0.2
"""After which no further datagram comes."""

HOLD = """
import sys, time
from tracer.namespaces import Link
from tracer.network import Veth
with Veth(Link()) as network:
    print(*(path.name for path in network.paths.values()), flush=True)
    time.sleep(60)
"""


def held() -> tuple[subprocess.Popen[str], list[Path], int]:
    """Return a process that holds a network, the names of its namespaces, and its keeper."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    names = holder.stdout.readline().split()
    holder.stdout.close()
    return holder, [FOLDER / name for name in names], int(names[0].split("-")[1])


def gone(paths: list[Path]) -> bool:
    return not any(path.exists() for path in paths)


def namespace() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


def reach(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=1):
        pass


def with_listener(network: Veth, act: Callable[[tuple[str, int]], None]) -> None:
    with network.at_server(socket.create_server, (network.host("tcp"), 0)) as listener:
        act(listener.getsockname())


def refusal(link: Link) -> str | None:
    """Return why this kernel does not make such a link."""
    try:
        with Veth(link):
            return None
    except IophaseError as error:
        return str(error)


def test_server_and_clients_are_in_namespaces_of_their_own_which_go_with_the_context() -> None:
    with Veth(Link()) as network:
        paths = list(network.paths.values())
        assert all(path.name.startswith("iophase-") and path.exists() for path in paths)
        places = {namespace(), network.at_server(namespace), network.at_clients(namespace)}
        assert len(places) == 3
        said = network.at_server(
            subprocess.check_output, ["readlink", "/proc/self/ns/net"], text=True
        )
        assert said == f"net:[{network.at_server(namespace)}]\n"
    assert gone(paths)


def test_clients_reach_the_server_over_both_families_and_nobody_else_does() -> None:
    with Veth(Link()) as network:
        for transport, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
            listener = network.at_server(
                socket.create_server, (network.host(transport), 0), family=family
            )
            with listener:
                address = listener.getsockname()[:2]
                network.at_clients(reach, address)
                with pytest.raises(OSError):
                    reach(address)


def test_the_bandwidth_is_what_was_asked_for() -> None:
    if (reason := refusal(Link(bandwidth_mbit=MBIT))) is not None:
        pytest.skip(reason)
    with Veth(Link(bandwidth_mbit=MBIT)) as network:

        def transfer(address: tuple[str, int]) -> None:
            sender = network.at_clients(socket.create_connection, address)
            with sender, listener.accept()[0] as receiver, ThreadPoolExecutor() as beside:
                started = time.monotonic()
                beside.submit(sender.sendall, b"x" * BYTES)  # more than the buffers hold
                left = BYTES
                while left:
                    left -= len(receiver.recv(1 << 16))
                seconds = time.monotonic() - started
            assert 0.8 < seconds / (BYTES * 8 / MBIT / 1e6) < 2.0

        with network.at_server(socket.create_server, (network.host("tcp"), 0)) as listener:
            transfer(listener.getsockname())


def test_the_delay_is_on_both_ways() -> None:
    if (reason := refusal(Link(delay_ms=30))) is not None:
        assert "no netem (module sch_netem): leave out --delay and --loss" in reason
        pytest.skip(reason)
    with Veth(Link(delay_ms=30)) as network:

        def connect(address: tuple[str, int]) -> None:
            network.at_clients(reach, address)  # the neighbours get to know each other
            started = time.monotonic()
            network.at_clients(reach, address)
            assert 0.06 <= time.monotonic() - started < 0.2

        with_listener(network, connect)


def test_a_share_of_the_packets_vanishes() -> None:
    if (reason := refusal(Link(loss_percent=LOSS))) is not None:
        assert "no netem (module sch_netem): leave out --delay and --loss" in reason
        pytest.skip(reason)
    with Veth(Link(loss_percent=LOSS)) as network:
        receiver = network.at_server(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        sender = network.at_clients(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        with receiver, sender:
            receiver.bind((network.host("udp"), 0))
            receiver.settimeout(QUIET_S)
            arrived = 0
            for _ in range(ROUNDS):
                for _ in range(DATAGRAMS // ROUNDS):  # fewer than the receive buffer holds
                    sender.sendto(b"x", receiver.getsockname())
                with contextlib.suppress(TimeoutError):
                    while receiver.recv(1):
                        arrived += 1
        deviation = (DATAGRAMS * LOSS / 100 * (1 - LOSS / 100)) ** 0.5
        assert abs(DATAGRAMS - arrived - DATAGRAMS * LOSS / 100) < 6 * deviation


def test_a_tool_that_is_killed_leaves_no_namespace() -> None:
    holder, paths, _ = held()
    holder.kill()
    holder.wait()
    assert within(GONE_S, lambda: gone(paths))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_keeper_that_is_told_to_end_removes_its_namespaces(number: signal.Signals) -> None:
    holder, paths, keeper = held()
    os.kill(keeper, number)
    assert within(GONE_S, lambda: gone(paths))
    holder.kill()
    holder.wait()


def keeper_alone() -> subprocess.Popen[bytes]:
    """Return a keeper whose tool is this test; the end of its input is the end of the context."""
    return subprocess.Popen(
        [sys.executable, "-m", "tracer.namespaces", "{}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def answer_of(keeper: subprocess.Popen[bytes]) -> Any:
    assert keeper.stdout is not None
    return json.loads(keeper.stdout.readline())


def test_a_keeper_that_is_told_to_end_while_it_makes_ends_when_it_has_made() -> None:
    with keeper_alone() as keeper:
        assert within(MAKE_S, lambda: holds_back(keeper.pid, signal.SIGTERM))
        keeper.terminate()
        answer = answer_of(keeper)
        assert keeper.wait(GONE_S) == 0
    assert gone([Path(answer[side]) for side in SIDES])


def test_a_network_is_made_though_a_process_that_helps_is_held_up() -> None:
    with keeper_alone() as keeper:
        children = Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children")
        helpers: list[str] = []
        assert keeper.stdout is not None
        while not helpers and not select.select([keeper.stdout], [], [], 0)[0]:
            helpers = children.read_text().split()
        with contextlib.suppress(ProcessLookupError):
            for helper in map(int, helpers):
                os.kill(helper, signal.SIGSTOP)
                time.sleep(HELD_UP_S)
                os.kill(helper, signal.SIGCONT)
        answer = answer_of(keeper)
    assert set(SIDES) <= set(answer), answer
    assert gone([Path(answer[side]) for side in SIDES])


def holds_back(pid: int, number: signal.Signals) -> bool:
    """Say whether a process has blocked a signal: SigBlk in proc(5)."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")]
    return bool(int(mask, 16) >> (number - 1) & 1)


def unseen(function: Callable[[], None]) -> None:
    """Call a function where nobody else sees its namespaces' names, and it sees nobody's.

    A thread of its own has a mount namespace of its own: mount_namespaces(7).
    """
    FOLDER.mkdir(exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)

    def inside() -> None:
        assert libc.unshare(CLONE_NEWNS) == 0, ctypes.get_errno()
        assert libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) == 0, ctypes.get_errno()
        assert libc.mount(b"none", bytes(FOLDER), b"tmpfs", 0, None) == 0, ctypes.get_errno()
        function()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(inside).result()


def test_what_a_killed_keeper_has_left_is_removed_by_the_next_and_nothing_else(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def leave_and_come() -> None:
        holder, paths, keeper = held()
        living, others, _ = held()
        os.kill(keeper, signal.SIGKILL)
        holder.kill()
        holder.wait()
        assert not gone(paths)
        with Veth(Link()):
            assert gone(paths)
            assert all(path.exists() for path in others)
        said = capfd.readouterr().err
        assert all(f"removed network namespace {path.name}" in said for path in paths)
        living.kill()
        living.wait()
        assert within(GONE_S, lambda: gone(others))

    unseen(leave_and_come)  # somebody else's could be the next


def test_of_those_who_remove_what_was_left_only_one_says_so() -> None:
    keepers = 4

    def leave_and_come_together() -> None:
        holder, paths, keeper = held()
        os.kill(keeper, signal.SIGKILL)
        holder.kill()
        holder.wait()
        with ThreadPoolExecutor(keepers) as beside:
            answers = list(beside.map(make_and_remove, range(keepers)))
        removed = [name for answer in answers for name in answer["removed"]]
        assert sorted(removed) == sorted(path.name for path in paths)

    unseen(leave_and_come_together)


def make_and_remove(_: int) -> Any:
    with keeper_alone() as keeper:
        return answer_of(keeper)


def test_without_root_it_is_one_clear_line() -> None:
    code = "from tracer.network import *; from tracer.namespaces import Link; Veth(Link())"
    done = subprocess.run(
        [sys.executable, "-c", code], user=NOBODY, group=NOBODY, capture_output=True, text=True
    )
    last = done.stderr.splitlines()[-1]
    assert last.endswith("--network veth: needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN): use sudo")


def test_a_link_that_makes_no_sense_is_refused() -> None:
    assert Link(5, 1, 100).problem() is None
    assert Link(-1).problem() == "--delay: 0 to 60000 ms"
    assert Link(0, 100).problem() == "--loss: 0 to less than 100 percent"
    assert Link(0, 0, 0).problem() == "--bandwidth: 0.1 to 34000 Mbit/s"


def test_loopback_is_right_here() -> None:
    network = Loopback()
    assert network.at_server(namespace) == network.at_clients(namespace) == namespace()
    assert (network.host("udp"), network.host("tcp6")) == ("127.0.0.1", "::1")
