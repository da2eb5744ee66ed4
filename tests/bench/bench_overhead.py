"""Measures what tracing costs a redis-server under redis-benchmark GET.

    python tests/bench/bench_overhead.py

See ``overhead.py`` for what is measured, and how.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.overhead import ALLOWED_NS, CPU, Server, measure

REQUESTS = 10_000
CLIENTS = 50
START_S = 10.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def redis_server() -> Iterator[tuple[int, int]]:
    """Yield pid and port of a server that answers, keeps nothing and ends with the block."""
    port = free_port()
    options = ["--port", str(port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
    server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + START_S
        while time.monotonic() < limit:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        yield server.pid, port
    finally:
        server.terminate()
        server.wait()


def get(port: int) -> int:
    """Make the requests; return their number."""
    command = ["taskset", "-c", str(CPU), "redis-benchmark", "-p", str(port)]
    command += ["-t", "get", "-n", str(REQUESTS), "-c", str(CLIENTS), "-q"]
    subprocess.run(command, capture_output=True, check=True)
    return REQUESTS


def main() -> int:
    """Print the runs and their median; return 1 when tracing costs more than is allowed."""
    for command in ("redis-server", "redis-benchmark"):
        if shutil.which(command) is None:
            print(f"bench_overhead: no {command}: install the package redis-server")
            return 1
    with redis_server() as (pid, port), tempfile.TemporaryDirectory() as folder:
        cost = measure(Server(pid, pid, lambda: get(port)), Path(folder))
    return 0 if cost <= ALLOWED_NS else 1


if __name__ == "__main__":
    sys.exit(main())
