"""Measures how fast a spool becomes CSV files: at least 1 million rows of calls.csv per second.

    python tests/bench/bench_convert.py [ROWS]

The records are those of a busy epoll server: waits and receives in turn, a delivery
for each receive.
The best of three runs counts, because other work on the machine only ever adds time.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from probes.calls import CALL_NAMES, CALLS
from probes.layout import CALL, FLAGS, KINDS, NAME
from tracer.convert import CSV_COLUMNS, convert
from tracer.ring import Records
from tracer.spool import SpoolWriter

DEFAULT_ROWS = 4_000_000
REQUIRED_ROWS_PER_S = 1_000_000
RUNS = 3


def busy_server(rows: int) -> Records:
    """Return CALL records of a server that handles one message per pair of calls."""
    random = np.random.default_rng(1)
    records = np.zeros(rows, CALL)
    records["kind"] = KINDS["CALL"]
    records["ts"] = 10**13 + np.cumsum(random.integers(1_000, 20_000, rows))
    records["pid"] = 4321
    records["tid"] = 4321 + random.integers(0, 4, rows)
    records["cpu"] = random.integers(0, 2, rows)
    for phase in ("sleep", "runq", "check", "copy"):
        records[phase] = random.integers(0, 50_000, rows)
        records["duration"] += records[phase]
    records["duration"] += random.integers(500, 5_000, rows).astype(np.uint64)
    receives = np.arange(rows) % 2 == 1
    records["call"] = np.where(
        receives, CALL_NAMES.index("recvfrom"), CALL_NAMES.index("epoll_wait")
    )
    records["fd"] = np.where(receives, random.integers(5, 200, rows), 4)
    records["socket"] = np.where(receives, random.integers(30_000, 31_000, rows), 0)
    records["result"] = np.where(receives, 64, random.integers(1, 20, rows))
    records["bytes"] = np.where(receives, 64, 0)
    records["flags"] = np.where(receives, FLAGS["DELIVERED"], 0)
    records["delivered"] = records["bytes"]
    records["ready"] = records["ts"] - 30_000
    records["noticed"] = records["ts"] - 10_000
    records["copied"] = records["ts"] + records["duration"]
    ended = np.argsort(records["ts"] + records["duration"], kind="stable")
    return records[ended]


def main() -> int:
    """Print the rates; return 1 when they are below what is required."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROWS
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        writer = SpoolWriter(directory / "spool", CALLS)
        names = np.zeros(4, NAME)
        names["kind"] = KINDS["NAME"]
        names["tid"] = 4321 + np.arange(4)
        names["comm"] = b"server"
        writer.append(names)
        made = busy_server(rows)
        begin = time.perf_counter()
        writer.append(made)
        print(f"spool: {rows / (time.perf_counter() - begin) / 1e6:.1f} million records/s")
        writer.close()
        del made
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        best = float("inf")
        for _ in range(RUNS):
            paths = {name: directory / name for name in CSV_COLUMNS}
            begin = time.perf_counter()
            done = convert(directory / "spool", paths)
            best = min(best, time.perf_counter() - begin)
            size = sum(path.stat().st_size for path in paths.values())
            for path in paths.values():
                path.unlink()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rate = done.calls / best
    print(f"calls.csv: {rate / 1e6:.2f} million rows/s, with {done.deliveries:,} deliveries beside")
    print(f"text: {size / best / 1e6:.0f} MB/s")
    print(f"peak memory: {before >> 10} MiB before, {peak >> 10} MiB after")
    return 0 if rate >= REQUIRED_ROWS_PER_S else 1


if __name__ == "__main__":
    sys.exit(main())
