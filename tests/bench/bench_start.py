"""Measures how long one waits: for the first event of a recording, for doctor, for help.

    python tests/bench/bench_start.py

`record` counts from its start to the first call that can be in the trace: the target calls all the
time, and the trace says when its first call was. The median of several counts.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from analysis.load import load
from servers.models import by_name
from tracer.reference import ReferenceServer

RUNS = 5
ROOT = Path(__file__).parents[2]
IOPHASE = (sys.executable, "-m", "tracer")
ALLOWED_S = {"record": 1.5, "doctor": 0.5, "--help": 0.5}


def to_first_event_s(pid: int, path: Path) -> float:
    began = time.monotonic_ns()
    command = [*IOPHASE, "record", "-p", str(pid), "-d", "0.1", "-o", str(path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return (int(load(path).calls["ts_ns"].iloc[0]) - began) / 1e9


def to_end_s(verb: str) -> float:
    began = time.monotonic_ns()
    subprocess.run([*IOPHASE, verb], cwd=ROOT, check=True, capture_output=True)
    return (time.monotonic_ns() - began) / 1e9


def main() -> int:
    """Print the medians; return 1 when one is above what is allowed."""
    took: dict[str, list[float]] = {name: [] for name in ALLOWED_S}
    with (
        ReferenceServer(by_name("nonblocking-nap")) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        for run in range(RUNS):
            took["record"].append(to_first_event_s(server.pid, Path(folder) / str(run)))
            took["doctor"].append(to_end_s("doctor"))
            took["--help"].append(to_end_s("--help"))
    late = 0
    for name, seconds in took.items():
        median = statistics.median(seconds)
        late += median > ALLOWED_S[name]
        print(
            f"{name:8} {median:.2f} s, {min(seconds):.2f} to {max(seconds):.2f};"
            f" at most {ALLOWED_S[name]} s allowed"
        )
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
