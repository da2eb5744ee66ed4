"""Measures what tracing costs an nginx worker under wrk.

    python tests/bench/bench_nginx.py

See ``overhead.py`` for what is measured, and how.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.overhead import ALLOWED_NS, CPU, Server, measure
from tests.real.servers import running
from tracer.processes import descendants_of

CONNECTIONS = 20
SECONDS = 1


def get(port: int) -> int:
    """Make requests for a while; return their number."""
    url = f"http://127.0.0.1:{port}/"
    command = ["taskset", "-c", str(CPU), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"(\d+) requests in", said)
    assert match is not None, said
    return int(match[1])


def main() -> int:
    """Print the runs and their median; return 1 when tracing costs more than is allowed."""
    with tempfile.TemporaryDirectory() as name, running("nginx", Path(name)) as (master, port):
        (worker,) = descendants_of(master)
        cost = measure(Server(worker, master, lambda: get(port)), Path(name))
    return 0 if cost <= ALLOWED_NS else 1


if __name__ == "__main__":
    sys.exit(main())
