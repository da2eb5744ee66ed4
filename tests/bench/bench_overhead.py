"""Measures what tracing costs a redis-server under redis-benchmark GET.

    python tests/bench/bench_overhead.py [REQUESTS]

The figure is CPU time of the server by the scheduler's account (schedstat) for each recorded call:
server and client sit on different CPUs, so throughput says little. Runs come in pairs, untraced and
traced, because a machine's speed drifts; the median of the pairs counts. What every process of the
machine pays for attached probes is in it, and the time of the tool's own reader, on the client's
CPU, is not.
"""

from __future__ import annotations

import csv
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.live.target import cpu_ns
from tracer.session import Session, attached_program

DEFAULT_REQUESTS = 200_000
PAIRS = 5
CLIENTS = 50
ALLOWED_NS = 350
SERVER_CPU, CLIENT_CPU = 0, 1
START_S = 10.0


class Run(NamedTuple):
    """One benchmark: CPU time of the server, requests/s, and recorded calls (0: not traced)."""

    cpu_ns: int
    rate: float
    calls: int


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def redis_server() -> Iterator[tuple[int, int]]:
    """Yield pid and port of a server that answers, keeps nothing and ends with the block."""
    port = free_port()
    options = ["--port", str(port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
    command = ["taskset", "-c", str(SERVER_CPU), "redis-server", *options]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
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


def benchmark(pid: int, port: int, requests: int) -> tuple[int, float]:
    """Return the CPU time that the server took for so many GETs, and their rate."""
    command = ["taskset", "-c", str(CLIENT_CPU), "redis-benchmark", "-p", str(port)]
    command += ["-t", "get", "-n", str(requests), "-c", str(CLIENTS), "--csv"]
    before = cpu_ns(pid)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    took = cpu_ns(pid) - before
    row = list(csv.reader(done.stdout.splitlines()))[-1]
    return took, float(row[1])


def untraced(pid: int, port: int, requests: int) -> Run:
    return Run(*benchmark(pid, port, requests), 0)


def traced(pid: int, port: int, requests: int, folder: Path) -> Run:
    with attached_program() as program, Session(program, folder / "trace") as session:
        session.follow([pid])
        took, rate = benchmark(pid, port, requests)
        session.stop()
        info = session.save()
    shutil.rmtree(folder / "trace")
    assert info.emitted and info.lost
    assert info.lost["total"] == 0, f"{info.lost} of {info.emitted} records were lost"
    return Run(took, rate, info.emitted["calls"])


def main() -> int:
    """Print the pairs and their median; return 1 when tracing costs more than is allowed."""
    for command in ("redis-server", "redis-benchmark"):
        if shutil.which(command) is None:
            print(f"bench_overhead: no {command}: install the package redis-server")
            return 1
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_REQUESTS
    os.sched_setaffinity(0, {CLIENT_CPU})
    costs = []
    with redis_server() as (pid, port), tempfile.TemporaryDirectory() as folder:
        benchmark(pid, port, requests)
        print("untraced ns/request  traced ns/request  calls/request  requests/s  ns/call")
        for _ in range(PAIRS):
            base = untraced(pid, port, requests)
            full = traced(pid, port, requests, Path(folder))
            costs.append((full.cpu_ns - base.cpu_ns) / full.calls)
            print(
                f"{base.cpu_ns / requests:19,.0f}  {full.cpu_ns / requests:17,.0f}"
                f"  {full.calls / requests:13.2f}  {full.rate:10,.0f}  {costs[-1]:7.0f}",
                flush=True,
            )
    median = statistics.median(costs)
    load = os.getloadavg()[0]
    print(f"tracing: {median:.0f} ns per call, at most {ALLOWED_NS} allowed; load average {load}")
    return 0 if median <= ALLOWED_NS else 1


if __name__ == "__main__":
    sys.exit(main())
