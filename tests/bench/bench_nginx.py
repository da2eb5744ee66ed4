"""Measures what tracing costs an nginx worker under wrk.

    python tests/bench/bench_nginx.py [SECONDS]

The figure is CPU time of the worker by the scheduler's account (schedstat), for each request and
for each recorded call. Runs come in pairs, untraced and traced, because a machine's speed drifts;
the median of the pairs counts. What is recorded for a request: epoll_wait, recv, at times accept4.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.live.target import cpu_ns
from tests.real.servers import running
from tracer.processes import descendants_of
from tracer.session import Session, attached_program

DEFAULT_SECONDS = 2
PAIRS = 5
CONNECTIONS = 20


class Run(NamedTuple):
    """CPU time of the worker, requests served, and recorded calls (0: not traced)."""

    cpu_ns: int
    requests: int
    calls: int

    @property
    def cost(self) -> float:
        """CPU ns of a request."""
        return self.cpu_ns / self.requests


def load(worker: int, port: int, seconds: int) -> tuple[int, int]:
    before = cpu_ns(worker)
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", f"http://127.0.0.1:{port}/"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"(\d+) requests in", said)
    assert match is not None, said
    return cpu_ns(worker) - before, int(match[1])


def traced(master: int, worker: int, port: int, seconds: int, folder: Path) -> Run:
    with attached_program() as program, Session(program, folder / "trace") as session:
        session.follow([master])
        took, requests = load(worker, port, seconds)
        session.stop()
        info = session.save()
    for file in (folder / "trace").iterdir():
        file.unlink()
    (folder / "trace").rmdir()
    assert info.recorded is not None and info.lost is not None
    print(f"  lost {info.lost['total']:,} of {info.recorded['total']:,} records")
    return Run(took, requests, info.recorded["calls"])


def main(arguments: list[str]) -> int:
    seconds = int(arguments[0]) if arguments else DEFAULT_SECONDS
    with tempfile.TemporaryDirectory() as name, running("nginx", Path(name)) as (master, port):
        (worker,) = descendants_of(master)
        load(worker, port, 1)
        pairs = []
        for _ in range(PAIRS):
            plain = Run(*load(worker, port, seconds), 0)
            pairs.append((plain, traced(master, worker, port, seconds, Path(name))))
    untraced_ns = statistics.median(plain.cost for plain, _ in pairs)
    more = statistics.median(with_it.cost - plain.cost for plain, with_it in pairs)
    per_call = statistics.median(
        (with_it.cost - plain.cost) * with_it.requests / with_it.calls for plain, with_it in pairs
    )
    print(f"untraced  {untraced_ns:10,.0f} ns of CPU a request")
    print(f"traced    {untraced_ns + more:10,.0f} ns of CPU a request")
    calls = statistics.median(with_it.calls / with_it.requests for _, with_it in pairs)
    print(f"a call    {per_call:10,.0f} ns ({calls:.2f} calls a request)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
