"""The clients: each returns how many bytes the server must have received, least and most."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.real.servers import ANSWER, PATIENCE_S
from tracer.processes import descendants_of

__all__ = ("CLIENTS", "Bounds", "Counter")

Bounds = tuple[int, int]

REQUESTS = 211
ROUNDS = 1009
WRK_CONNECTIONS = 4


def _run(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Counter:
    """A connection that asks a server how many bytes it has received, by its own account."""

    def __init__(self, port: int, question: bytes, answer: str, end: bytes) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._question, self._answer, self._end = question, answer, end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def ask(self) -> bytes:
        self._socket.sendall(self._question)
        said = b""
        while not said.endswith(self._end):
            said += self._socket.recv(65536)
        return said

    def read(self) -> int:
        said = self.ask()
        match = re.search(self._answer, said.decode())
        assert match is not None, said
        return int(match[1])


def redis_benchmark(port: int) -> None:
    counts = ["-n", str(ROUNDS), "-c", "5", "-d", "100"]
    said = _run("redis-benchmark", "-h", "127.0.0.1", "-p", str(port), "-t", "set", "-q", *counts)
    assert "requests per second" in said
    assert _run("redis-cli", "-p", str(port), "--raw", "SET", "color", "blue").strip() == "OK"
    assert _run("redis-cli", "-p", str(port), "--raw", "GET", "color").strip() == "blue"


def memcached_sets(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client, client.makefile("rb") as replies:
        for number in range(REQUESTS):
            client.sendall(b"set k%d 0 0 5\r\nvalue\r\n" % number)
            assert replies.readline() == b"STORED\r\n"
        client.sendall(b"get k7\r\n")
        assert [replies.readline() for _ in range(3)][1] == b"value\r\n"


def until_it_waits(pid: int) -> None:
    """Return as soon as all threads of a server sleep: it has taken what came, and waits for more.

    So it is not left to the scheduler whether a server that blocks is ever seen to.
    """
    limit = time.monotonic() + PATIENCE_S
    while not all(state == "S" for state in _states(pid)):
        assert time.monotonic() < limit, f"process {pid} never waits"
        time.sleep(0.001)


def _states(pid: int) -> Iterator[str]:
    """Yield the state of each thread of a process and of what it has forked (proc(5), stat)."""
    for process in (pid, *descendants_of(pid)):
        for task in Path(f"/proc/{process}/task").glob("*/stat"):
            try:
                yield task.read_text().rpartition(")")[2].split()[0]
            except OSError:  # it has ended
                continue


def wrk(port: int, pid: int) -> Bounds:
    said = _run("wrk", "-t1", f"-c{WRK_CONNECTIONS}", "-d1s", f"http://127.0.0.1:{port}/")
    match = re.search(r"(\d+) requests in", said)
    assert match is not None, said
    assert "Non-2xx" not in said and "Socket errors" not in said, said
    size = len(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n")
    requests = int(match[1])
    return requests * size, (requests + WRK_CONNECTIONS) * size


def pgbench(port: int, pid: int) -> Bounds:
    base = ["pgbench", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]
    _run(*base, "-i", "-q", "postgres")
    said = _run(*base, "-S", "-n", "-c", "4", "-t", str(REQUESTS), "postgres")
    assert f"actually processed: {4 * REQUESTS}/{4 * REQUESTS}" in said, said
    least = 4 * REQUESTS * len("Q....SELECT abalance FROM pgbench_accounts WHERE aid = 1;.")
    return least, 1 << 30


def http(port: int, pid: int) -> Bounds:
    """Requests one by one, each on a connection of its own."""
    request = b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"
    for _ in range(REQUESTS):
        with socket.create_connection(("127.0.0.1", port)) as client:
            until_it_waits(pid)
            client.sendall(request)
            said = b""
            while part := client.recv(65536):
                said += part
        assert said.endswith(b"\r\n\r\n" + ANSWER), said
    return REQUESTS * len(request), REQUESTS * len(request)


def echo(port: int, pid: int) -> Bounds:
    message = b"forty-one bytes that come back as they go"
    with socket.create_connection(("127.0.0.1", port)) as client:
        for _ in range(REQUESTS):
            until_it_waits(pid)
            client.sendall(message)
            said = b""
            while len(said) < len(message):
                said += client.recv(len(message))
            assert said == message
    return REQUESTS * len(message), REQUESTS * len(message)


CLIENTS: dict[str, Callable[[int, int], Bounds]] = {
    "nginx": wrk,
    "postgres": pgbench,
    "node": http,
    "java": echo,
    "http.server": http,
    "socat": echo,
    "gunicorn": http,
}
