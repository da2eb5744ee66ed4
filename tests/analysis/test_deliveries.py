"""A delivery's time is split by what the receiving thread did, to the nanosecond."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.deliveries import deliveries
from analysis.delivery_waits import REASONS, delivery_waits
from analysis.load import Trace, load
from tests.analysis import synthetic

MINE, OTHER = 71, 72
T = synthetic.START_NS


def call(
    start: int, name: str = "recvfrom", socket: int | None = MINE, size: int = 0, **phases: int
) -> dict[str, object]:
    """Return one call that begins ``start`` ns into the trace."""
    spent = {phase: phases.get(phase.removesuffix("_ns"), 0) for phase in synthetic.PHASES}
    return {
        "ts_ns": T + start,
        "duration_ns": sum(spent.values()),
        "cpu": 0,
        "pid": synthetic.PID,
        "tid": synthetic.PID,
        "comm": "server",
        "context": "process",
        "call": name,
        "fd": 5,
        "socket": socket,
        "nfds": None,
        "ready": None,
        "result": size or -11,
        "bytes": size,
        **spent,
    }


def trace_of(
    tmp_path: Path, calls: list[dict[str, object]], *arrivals: tuple[int, int, int]
) -> Trace:
    """Write calls and the arrivals (ready, noticed, copied) of data on MINE, and load them."""
    frame = pd.DataFrame(calls).astype({"socket": "Int64", "nfds": "Int64", "ready": "Int64"})
    data = pd.DataFrame(
        [
            {
                "socket": MINE,
                "fd": 5,
                "pid": synthetic.PID,
                "tid": synthetic.PID,
                "ready_ns": T + ready,
                "noticed_ns": T + noticed,
                "copied_ns": T + copied,
                "bytes": 64,
                "notify_ns": None,
                "waker_context": "process",
            }
            for ready, noticed, copied in arrivals
        ]
    )
    meta = synthetic.make_meta(None, len(frame), len(data), 1)
    threads = synthetic.make_threads(frame, None)
    return load(synthetic.write_trace(tmp_path / "trace", frame, data, threads, meta))


def reasons(trace: Trace, row: int = 0) -> dict[str, int]:
    """Return what a delivery waited for, without the zeros."""
    line = delivery_waits(trace).iloc[row]
    return {reason: int(line[f"{reason}_ns"]) for reason in REASONS if line[f"{reason}_ns"]}


def test_data_that_wakes_a_blocking_receive_waits_for_the_cpu_and_the_copy(tmp_path: Path) -> None:
    receive = call(0, size=64, sleep=1000, runq=300, overhead=50, copy=20)
    trace = trace_of(tmp_path, [receive], (990, 1000, 1370))
    assert reasons(trace) == {"asleep": 10, "runq": 300, "call": 50, "copy": 20}


def test_data_waits_while_a_single_thread_sleeps_on_another_connection(tmp_path: Path) -> None:
    calls = [
        call(0, socket=OTHER, size=64, sleep=5000, copy=10),
        call(6000, size=64, overhead=30, copy=20),
    ]
    trace = trace_of(tmp_path, calls, (1000, 6050, 6050))
    # in the call on OTHER until 5010, then serving what it brought until 6000
    assert reasons(trace) == {"busy": 4010 + 990, "call": 30, "copy": 20}


def test_data_that_comes_during_a_nap_between_polls_was_asked_for_by_nobody(tmp_path: Path) -> None:
    calls = [call(0, spin=100), call(10_100, overhead=80, copy=20, size=64)]
    trace = trace_of(tmp_path, calls, (2000, 10_200, 10_200))
    assert reasons(trace) == {"nobody_asked": 8100, "call": 80, "copy": 20}


def test_data_reported_by_epoll_waits_behind_the_others_that_are_served_first(
    tmp_path: Path,
) -> None:
    calls = [
        call(0, "epoll_wait", None, sleep=1000, runq=200, check=40, overhead=60),
        call(1400, socket=OTHER, size=64, overhead=90, copy=10),
        call(2000, size=64, overhead=70, copy=30),
    ]
    trace = trace_of(tmp_path, calls, (1000, 1300, 2100))
    assert reasons(trace) == {
        "runq": 200,
        "busy": 100 + 100 + 500,
        "call": 100 + 70,
        "copy": 30,
    }


def test_an_earlier_look_that_found_nothing_is_a_part_of_the_call(tmp_path: Path) -> None:
    calls = [
        call(0, "select", None, check=400),
        call(500, "select", None, check=300, overhead=10),
        call(900, size=64, overhead=70, copy=30),
    ]
    trace = trace_of(tmp_path, calls, (450, 810, 1000))
    assert reasons(trace) == {"nobody_asked": 50, "busy": 90, "call": 310 + 70, "copy": 30}


def test_two_arrivals_in_one_call_are_each_split(tmp_path: Path) -> None:
    receive = call(0, size=128, sleep=1000, runq=300, overhead=50, copy=20)
    trace = trace_of(tmp_path, [receive], (990, 1000, 1370), (1360, 1370, 1370))
    assert reasons(trace, 0)["runq"] == 300
    assert reasons(trace, 1) == {"copy": 10}


def test_calls_of_another_thread_do_not_count(tmp_path: Path) -> None:
    stranger = call(0, socket=OTHER, size=64, sleep=9000) | {"tid": synthetic.PID + 1}
    receive = call(5000, size=64, overhead=70, copy=30)
    trace = trace_of(tmp_path, [stranger, receive], (4000, 5100, 5100))
    assert reasons(trace) == {"nobody_asked": 1000, "call": 70, "copy": 30}


@pytest.mark.parametrize("model", synthetic.MODELS)
def test_the_reasons_add_up_to_the_delivery_exactly(tmp_path: Path, model: str) -> None:
    trace = load(synthetic.make_trace(tmp_path / "t", model, 400, threads=3))
    waits = delivery_waits(trace)
    parts = waits[[f"{reason}_ns" for reason in REASONS]]
    assert len(waits) == 400
    assert (parts.sum(axis="columns") == waits["total_ns"]).all()
    assert (parts >= 0).all(axis=None)


def test_the_summary_gives_percentiles_and_shares_that_add_up_to_one(tmp_path: Path) -> None:
    trace = load(synthetic.make_trace(tmp_path / "t", "epoll", 400))
    row = deliveries([trace]).iloc[0]
    assert row["deliveries"] == 400
    assert row["total_p50_ns"] == row["total_max_ns"] == 10_000
    assert row["unnoticed_p99_ns"] == 5_000
    assert sum(row[f"{reason}_share"] for reason in REASONS) == pytest.approx(1)


def test_a_delivery_of_unknown_arrival_is_counted_and_left_out(tmp_path: Path) -> None:
    path = synthetic.make_trace(tmp_path / "t", "epoll", 40)
    frame = pd.read_csv(path / "deliveries.csv").convert_dtypes()
    frame.loc[:4, "ready_ns"] = pd.NA
    frame.to_csv(path / "deliveries.csv", index=False)
    row = deliveries([load(path)]).iloc[0]
    assert (row["deliveries"], row["unknown"]) == (35, 5)


def test_no_delivery_at_all_gives_no_figures(tmp_path: Path) -> None:
    path = synthetic.make_trace(tmp_path / "t", "epoll", 40)
    header = (path / "deliveries.csv").read_text().splitlines()[0]
    (path / "deliveries.csv").write_text(header + "\n")
    row = deliveries([load(path)]).iloc[0]
    assert row["deliveries"] == 0
    assert np.isnan(row["total_p50_ns"]) and np.isnan(row["copy_share"])


def test_a_kernel_thread_that_polls_asks_all_the_time(tmp_path: Path) -> None:
    other, mine = (
        call(0, "io_uring", OTHER, size=64, copy=40),
        call(1000, "io_uring", size=64, copy=60),
    )
    polled = trace_of(
        tmp_path, [{**one, "context": "iou-sqp"} for one in (other, mine)], (20, 1000, 1060)
    )
    assert reasons(polled) == {"busy": 20, "call": 960, "copy": 60}
