"""What single models do at their limits: pools, signal queues, missing kernel features."""

import contextlib
import ctypes
import errno
import functools
import resource
import socket
import struct
import subprocess
import sys
import time

import pytest

from servers.models import MODELS, by_name
from tests.servers.client import PATIENCE_S, ROOT, Server, alive, payload, receive, within

ASK_MODEL = "import sys, servers.models; print(servers.models.by_name(sys.argv[1]).missing())"


def exchange(connection: socket.socket, size: int = 64) -> bytes:
    connection.sendall(payload(size))
    return receive(connection, size)


@pytest.mark.parametrize("name", ["thread-pool", "process-pool"])
def test_a_client_beyond_the_pool_waits_until_another_leaves(name: str) -> None:
    with Server(by_name(name).module, "--workers", "2") as server:
        first, second, third = (server.connect() for _ in range(3))
        for connection in (first, second):
            assert exchange(connection) == payload(64).upper()
        third.sendall(payload(64))
        third.settimeout(0.2)
        with pytest.raises(TimeoutError):
            third.recv(1)
        first.close()
        third.settimeout(PATIENCE_S)
        assert receive(third, 64) == payload(64).upper()
        second.close()
        third.close()
        counters = server.stop()
    assert counters["unserved"] == 0
    assert counters["messages"] == 3


@pytest.mark.parametrize("name", ["thread-pool", "process-pool"])
def test_a_pool_reports_the_clients_it_never_served(name: str) -> None:
    with Server(by_name(name).module, "--workers", "1") as server:
        served = server.connect()
        assert exchange(served) == payload(64).upper()
        waiting = [server.connect() for _ in range(3)]
        time.sleep(0.1)
        counters = server.stop()
        for connection in (served, *waiting):
            connection.close()
    assert counters["unserved"] == 3


def test_the_thread_pool_reports_the_longest_wait_for_a_thread() -> None:
    with Server("servers.thread_pool_server", "--workers", "1") as server:
        first, second = server.connect(), server.connect()
        assert exchange(first) == payload(64).upper()
        time.sleep(0.1)
        first.close()
        assert exchange(second) == payload(64).upper()
        second.close()
        assert 100_000 <= server.stop()["longest_wait_us"] < 2_000_000


@pytest.mark.parametrize("name", ["sigio", "sigtimedwait"])
def test_arrivals_are_not_missed_when_the_signal_queue_is_full(name: str) -> None:
    with Server(by_name(name).module) as server:
        # No room for a single queued signal: every arrival comes as a plain SIGIO.
        resource.prlimit(server.process.pid, resource.RLIMIT_SIGPENDING, (0, 0))
        connections = [server.connect() for _ in range(5)]
        for _ in range(11):
            for connection in connections:
                assert exchange(connection) == payload(64).upper()
        for connection in connections:
            connection.close()
        assert server.stop()["messages"] == 55


def test_posix_aio_serves_more_silent_clients_than_glibc_has_helpers_by_default() -> None:
    with Server("servers.posix_aio_server") as server:
        silent = [server.connect() for _ in range(50)]
        with server.connect() as connection:
            assert exchange(connection) == payload(64).upper()
        for client in silent:
            client.close()
        assert server.stop()["connections"] == 51


def none_alive(pids: set[int]) -> bool:
    return not any(map(alive, pids))


def test_process_servers_end_their_children_even_when_killed() -> None:
    for name in ("processes", "process-pool"):
        with Server(by_name(name).module) as server, server.connect() as connection:
            exchange(connection)
            children = server.descendants()
            assert children
            server.process.kill()
            assert within(2, functools.partial(none_alive, children))


def test_io_uring_multishot_recovers_when_all_buffers_are_taken() -> None:
    with Server("servers.io_uring_multishot_server", "--buffer", "64") as server:
        message = payload(1_000_000)  # far more than 64 buffers of 64 bytes
        with server.connect() as connection:
            connection.sendall(message)
            connection.shutdown(socket.SHUT_WR)
            assert receive(connection, len(message)) == message.upper()
        assert server.stop()["bytes_received"] == len(message)


def test_a_model_without_its_package_says_so_and_exits_5() -> None:
    for package in ("gevent", "uvloop"):
        done = subprocess.run(
            [sys.executable, "-S", "-m", f"servers.{package}_server"],  # -S: no site-packages
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 5
        assert done.stderr == f"{package}_server: needs the Python package {package}\n"


def forbid_io_uring(error: int) -> None:
    """Let io_uring_setup() fail in this process from now on, by a seccomp(2) filter."""
    load_number, jump_if_equal, give = 0x20, 0x15, 0x06
    steps = [
        (load_number, 0, 0, 0),
        (jump_if_equal, 0, 1, 425),
        (give, 0, 0, 0x00050000 | error),  # SECCOMP_RET_ERRNO
        (give, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    libc.prctl(22, 2, program)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


@pytest.mark.parametrize(
    ("error", "reason"),
    [(errno.ENOSYS, "needs Linux 5.7, with io_uring"), (errno.EPERM, "io_uring is forbidden here")],
)
def test_a_host_without_io_uring_is_told_and_exits_5(error: int, reason: str) -> None:
    for name in (model.name for model in MODELS if model.name.startswith("io_uring")):
        done = subprocess.run(
            [sys.executable, "-m", by_name(name).module],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            preexec_fn=lambda: forbid_io_uring(error),
        )
        assert done.returncode == 5, done.stderr
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
        asked = subprocess.run(
            [sys.executable, "-c", ASK_MODEL, name],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            preexec_fn=lambda: forbid_io_uring(error),
        )
        assert done.stderr.endswith(f": {asked.stdout}")


def test_too_many_clients_for_the_descriptor_limit_is_one_clear_line() -> None:
    done = subprocess.Popen(
        [sys.executable, "-m", "servers.epoll_server"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20)),
    )
    assert done.stdout is not None
    port = int(done.stdout.readline().rpartition(":")[2])
    clients = []
    with contextlib.suppress(ConnectionRefusedError):  # the server has ended meanwhile
        for _ in range(30):
            clients.append(socket.create_connection(("127.0.0.1", port)))
    _, errors = done.communicate(timeout=PATIENCE_S)
    for client in clients:
        client.close()
    assert done.returncode == 1
    assert errors.startswith("epoll_server: Too many open files; raise the limit, ulimit -n")
    assert errors.count("\n") == 1
