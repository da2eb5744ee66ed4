"""Measures how fast a spool becomes CSV files: at least 1 million rows of calls.csv per second.

    python -m tests.bench.bench_convert [ROWS]

The records are those of a busy epoll server: waits and receives in turn, each receive with its
delivery. The best of three runs counts, because other work on the machine only ever adds time.
"""

from __future__ import annotations

import multiprocessing
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
BATCH_ROWS = 100_000
"""Rows that a drain may bring at once."""
THREADS = 4


def busy_server(rows: int, begin_ns: int = 10**13, seed: int = 1) -> Records:
    """Return CALL records of a server that handles one message per pair of calls."""
    random = np.random.default_rng(seed)
    records = np.zeros(rows, CALL)
    records["kind"] = KINDS["CALL"]
    records["ts"] = begin_ns + np.cumsum(random.integers(1_000, 20_000, rows))
    records["pid"] = 4321
    records["tid"] = 4321 + random.integers(0, THREADS, rows)
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


def write_spool(path: Path, rows: int) -> None:
    """Write a spool as a recording does, and print how fast."""
    writer = SpoolWriter(path, CALLS)
    names = np.zeros(THREADS, NAME)
    names["kind"] = KINDS["NAME"]
    names["tid"] = 4321 + np.arange(THREADS)
    names["comm"] = b"server"
    writer.append(names)
    begin_ns, spent = 10**13, 0.0
    for start in range(0, rows, BATCH_ROWS):
        batch = busy_server(min(BATCH_ROWS, rows - start), begin_ns, start)
        begin_ns = int(batch["ts"].max())
        begin = time.perf_counter()
        writer.append(batch)
        spent += time.perf_counter() - begin
    writer.close()
    print(f"spool: {rows / spent / 1e6:.1f} million records/s")


def main() -> int:
    """Print the rates; return 1 when they are below what is required."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROWS
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        maker = multiprocessing.Process(target=write_spool, args=(directory / "spool", rows))
        maker.start()
        maker.join()
        paths = {name: directory / name for name in CSV_COLUMNS}
        wall, cpu = [], []
        for _ in range(RUNS):
            begin, begin_cpu = time.perf_counter(), time.process_time()
            done = convert(directory / "spool", paths)
            wall.append(time.perf_counter() - begin)
            cpu.append(time.process_time() - begin_cpu)
            size = sum(path.stat().st_size for path in paths.values())
            for path in paths.values():
                path.unlink()
    rate = done.calls / min(wall)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"calls.csv: {rate / 1e6:.2f} million rows/s, and {done.deliveries:,} deliveries beside")
    print(f"text: {size / min(wall) / 1e6:.0f} MB/s")
    print(f"CPU time: {min(cpu) / done.calls * 1e9:.0f} ns per row; peak memory: {peak >> 10} MiB")
    return 0 if rate >= REQUIRED_ROWS_PER_S else 1


if __name__ == "__main__":
    sys.exit(main())
