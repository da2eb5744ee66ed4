"""How fast the analysis is: ten million calls loaded and attributed, in a process of its own.

    python -m pytest -s tests/bench/bench_analysis.py

A small synthetic trace is written over and over with its clock moved on, 1.3 GB of CSV in all; then
a fresh interpreter loads it whole, or in pieces, attributes it, and says how long that took and its
peak memory. In pieces, four times as many calls in Parquet take no more memory.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from analysis.parquet import export_parquet, parquet_writer
from analysis.schema import CALLS as TABLE
from tests.analysis import synthetic

CALLS = 10_000_000
BLOCK_REQUESTS = 100_000
TIMES_LONGER = 4
SECONDS = 20.0
PEAK_BYTES = 4 << 30
"""The goal: load and attribute in 20 s and 4 GiB on two cores. Judged by CPU time, which
on idle cores is not less than the time on the wall, and which busy neighbours disturb less."""

_MEASURE = """
import json, resource, sys, time
from analysis.attribution import attribute
from analysis.load import load

began = time.monotonic()
trace = load(sys.argv[1])
if sys.argv[2] == "whole":
    calls = len(trace.calls)
loaded = time.monotonic()
rows = attribute([trace], by="call", per="call")
attribute([trace], by="connection", per="request")
done = time.monotonic()
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"calls": int(rows["calls"].sum()), "load_s": loaded - began,
                  "attribute_s": done - loaded, "cpu_s": usage.ru_utime + usage.ru_stime,
                  "peak_bytes": usage.ru_maxrss * 1024}))
"""


def _repeat(block: pd.DataFrame, path: Path, times: int, clock: list[str], span: int) -> None:
    with path.open("w") as file:
        for turn in range(times):
            moved = block.assign(**{column: block[column] + turn * span for column in clock})
            moved.to_csv(file, index=False, header=turn == 0)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ten-million") / "trace"
    calls = synthetic.make_calls("epoll", BLOCK_REQUESTS, threads=4, connections=100)
    times = CALLS // len(calls)
    span = int((calls["ts_ns"] + calls["duration_ns"]).max()) - synthetic.START_NS
    deliveries = synthetic.make_deliveries(calls)
    threads = synthetic.make_threads(calls, "epoll")
    ids = ("pid", "tid", "comm", "role", "model")
    sums = [str(column) for column in threads if column not in ids]
    threads[sums] *= times
    meta = synthetic.make_meta("epoll", CALLS, len(deliveries) * times, len(threads))
    meta["workload"] = synthetic.make_workload(BLOCK_REQUESTS * times)
    synthetic.write_trace(path, calls[:0], deliveries[:0], threads, meta)
    _repeat(calls, path / "calls.csv", times, ["ts_ns"], span)
    instants = ["ready_ns", "noticed_ns", "copied_ns"]
    _repeat(deliveries, path / "deliveries.csv", times, instants, span)
    return path


def _measure(directory: Path, how: str) -> dict[str, float]:
    """Attribute a trace in an interpreter of its own; print and return what it took."""
    output = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(directory), how],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    figures: dict[str, float] = json.loads(output)
    print(
        f"\n{how}: {figures['calls']:,} calls: load {figures['load_s']:.1f} s, "
        f"attribute by call and by connection {figures['attribute_s']:.1f} s, "
        f"CPU {figures['cpu_s']:.1f} s, "
        f"peak {figures['peak_bytes'] / (1 << 30):.2f} GiB"
    )
    return figures


@pytest.mark.parametrize("how", ["whole", "pieces"])
def test_ten_million_calls_load_and_attribute_in_time_and_memory(directory: Path, how: str) -> None:
    figures = _measure(directory, how)
    assert figures["calls"] == CALLS
    assert figures["cpu_s"] <= SECONDS
    assert figures["peak_bytes"] <= PEAK_BYTES


@pytest.fixture(scope="module")
def parquet(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parquet") / "trace"
    began = time.monotonic()
    export_parquet(directory, path)
    print(f"\nParquet: {CALLS / (time.monotonic() - began) / 1e6:.1f} M calls/s written")
    return path


def test_parquet_is_smaller(directory: Path, parquet: Path) -> None:
    size = (parquet / "calls.parquet").stat().st_size
    print(f"\nParquet: {size / CALLS:.1f} B per call")
    assert size < (directory / "calls.csv").stat().st_size / 5


def test_a_longer_trace_takes_no_more_memory_in_pieces(parquet: Path, tmp_path: Path) -> None:
    shutil.copytree(parquet, tmp_path / "long")
    file = pq.ParquetFile(parquet / "calls.parquet")
    with parquet_writer(tmp_path / "long" / "calls.parquet", TABLE) as writer:
        for group in [*range(file.num_row_groups)] * TIMES_LONGER:
            writer.write_table(file.read_row_group(group))
    once, often = (_measure(path, "pieces") for path in (parquet, tmp_path / "long"))
    shutil.rmtree(tmp_path / "long")
    assert often["calls"] == TIMES_LONGER * CALLS
    assert often["peak_bytes"] <= 1.25 * once["peak_bytes"]
