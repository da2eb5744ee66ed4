"""Measures whether records are lost: none at 200,000 calls/s for 10 s with default settings.

    python tests/bench/bench_loss.py [RATE]

A C program makes receives that find nothing, at that rate; then once more as fast as it can, for a
second, to see how far the limit is. The reader and the program share this machine's CPUs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from probes.program import Program
from tracer.session import Session, attached_program

DEFAULT_RATE = 200_000
SECONDS = 10
ANY_RATE = 1_000_000_000
REACHED = 0.99
"""Of the rate that was asked for, or the measurement is of something else."""


def compiled(folder: Path) -> Path:
    """Return the program that makes the calls."""
    source = Path(__file__).with_name("bench_loss_calls.c")
    program = folder / "calls"
    subprocess.run(["cc", "-O2", "-o", program, source], check=True)
    return program


def measure(program: Program, calls: Path, rate: int, seconds: int, path: Path) -> tuple[int, int]:
    """Print what came of a run; return the calls/s that were made, and the records lost."""
    command = [str(calls), str(rate), str(seconds)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as maker,
        Session(program, path) as session,
    ):
        session.follow([maker.pid])
        answer, _ = maker.communicate(b"\n")
        session.stop()
        began = time.perf_counter()
        info = session.save()
        took = time.perf_counter() - began
    made, elapsed = int(answer.split()[0]), float(answer.split()[1])
    assert info.emitted and info.recorded and info.lost
    assert info.emitted["calls"] == made, f"{made} calls were made, {info.emitted} were seen"
    assert info.emitted["total"] == info.recorded["total"] + info.lost["total"]
    print(
        f"{made / elapsed:11,.0f} calls/s for {elapsed:.1f} s: {info.lost['total']:,} of"
        f" {info.emitted['total']:,} records lost; files written in {took:.1f} s",
        flush=True,
    )
    return round(made / elapsed), info.lost["total"]


def main() -> int:
    """Print the rates and losses; return 1 when there are any at the required rate."""
    if shutil.which("cc") is None:
        print("bench_loss: no C compiler: install the package gcc")
        return 1
    rate = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_RATE
    with tempfile.TemporaryDirectory() as name, attached_program() as program:
        folder = Path(name)
        calls = compiled(folder)
        reached, lost = measure(program, calls, rate, SECONDS, folder / "asked")
        measure(program, calls, ANY_RATE, 1, folder / "fastest")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    return 0 if lost == 0 and reached >= REACHED * rate else 1


if __name__ == "__main__":
    sys.exit(main())
