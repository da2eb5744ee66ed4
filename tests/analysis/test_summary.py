"""The summary's numbers are those of the ledger, the load generator and the deliveries."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.ledger import open_calls, open_threads
from analysis.load import load
from analysis.report import report_text
from analysis.summary import SHARES, summarise
from tests.analysis import synthetic


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return synthetic.make_traces(tmp_path_factory.mktemp("traces"), requests=211)


def test_the_shares_of_the_wall_time_add_up_to_one(traces: list[Path]) -> None:
    summary = summarise(map(load, traces))
    assert summary[list(SHARES)].sum(axis="columns").tolist() == pytest.approx([1.0] * len(traces))


def test_shares_are_of_the_wall_time_of_all_threads(tmp_path: Path) -> None:
    trace = load(synthetic.make_trace(tmp_path / "t", "blocking", 100, threads=4))
    row = summarise([trace]).iloc[0]
    wall = int(trace.threads["wall_ns"].sum())
    assert row["threads"] == 4
    assert row["wall_ns"] == wall
    assert row["sleep"] == int(trace.calls["sleep_ns"].sum()) / wall


def test_requests_are_the_load_generators(traces: list[Path]) -> None:
    summary = summarise(map(load, traces))
    assert summary["requests"].eq(211).all()
    assert summary["requests_per_s"].eq(211 / 2).all()
    assert summary.set_index("model")["calls_per_request"].to_dict() == {
        model: len(spans) for model, spans in synthetic.MODELS.items()
    }


def test_without_a_load_generator_requests_are_deliveries(tmp_path: Path) -> None:
    path = synthetic.make_trace(tmp_path / "t", "epoll", 50, meta={"workload": None})
    row = summarise([load(path)]).iloc[0]
    assert (row["counted_by"], row["requests"]) == ("deliveries", 50)
    assert row["requests_per_s"] == 50 / 2


@pytest.mark.parametrize(
    "wish", [{"sample": 4}, {"narrowed": {"peers": ["10.0.0.0/8"]}}, {"rotate": 1 << 30}]
)
def test_where_rows_were_left_out_requests_are_unknown_and_the_report_says_why(
    tmp_path: Path, wish: dict[str, object]
) -> None:
    meta = {"workload": None, "left_out": 1234, **wish}
    path = synthetic.make_trace(tmp_path / "t", "epoll", 50, meta=meta)
    row = summarise([load(path)]).iloc[0]
    assert pd.isna(row["requests"]) and pd.isna(row["requests_per_s"])
    assert pd.isna(row["cpu_per_request_ns"])
    said = " ".join(report_text([path]).split())
    assert "only: 1,234 rows were left out; times of threads are of all they did" in said


def test_the_cpu_time_of_a_request_is_all_time_on_a_cpu(tmp_path: Path) -> None:
    trace = load(synthetic.make_trace(tmp_path / "t", "select", 50))
    thread = trace.threads.iloc[0]
    parts = ("user_ns", "spin_ns", "check_ns", "copy_ns", "overhead_ns", "other_calls_ns")
    expected = sum(int(thread[part]) for part in parts) / 50
    assert summarise([trace])["cpu_per_request_ns"][0] == expected


def test_a_phase_that_nothing_measured_is_absent_and_not_zero(tmp_path: Path) -> None:
    calls = synthetic.make_calls("blocking", 20)
    calls["overhead_ns"] += calls["copy_ns"]
    calls["copy_ns"] = pd.array([pd.NA] * len(calls), dtype="Int64")
    threads = synthetic.make_threads(calls.assign(copy_ns=0), "blocking")
    threads["copy_ns"] = pd.array([pd.NA] * len(threads), dtype="Int64")
    path = synthetic.write_trace(
        tmp_path / "t",
        calls,
        synthetic.make_deliveries(calls),
        threads,
        synthetic.make_meta("blocking", 20, 20, 1),
    )
    trace = load(path)
    row = summarise([trace]).iloc[0]
    assert pd.isna(row["copy"])
    assert sum(row[share] for share in SHARES if share != "copy") == pytest.approx(1)
    assert open_calls(trace.calls).empty
    assert open_threads(trace.threads).empty


def test_an_empty_trace_has_no_shares_and_no_costs(tmp_path: Path) -> None:
    nothing = synthetic.make_calls("epoll", 10).iloc[:0]
    path = synthetic.write_trace(
        tmp_path / "empty",
        nothing,
        synthetic.make_deliveries(nothing),
        synthetic.make_threads(nothing, None),
        synthetic.make_meta(None, 0, 0, 0),
    )
    row = summarise([load(path)]).iloc[0]
    assert row["threads"] == row["bytes"] == row["requests"] == 0
    assert pd.isna(row["sleep"]) and pd.isna(row["delivery_p50_ns"])
    assert pd.isna(row["cpu_per_request_ns"])


def test_delivery_percentiles_run_from_arrival_to_the_end_of_the_copy(tmp_path: Path) -> None:
    calls = synthetic.make_calls("blocking", 101)
    deliveries = synthetic.make_deliveries(calls)
    deliveries["ready_ns"] = deliveries["copied_ns"] - [1000 * rank for rank in range(101)]
    path = synthetic.write_trace(
        tmp_path / "t",
        calls,
        deliveries,
        synthetic.make_threads(calls, "blocking"),
        synthetic.make_meta("blocking", 101, 101, 1),
    )
    row = summarise([load(path)]).iloc[0]
    assert (row["delivery_p50_ns"], row["delivery_p99_ns"]) == (50_000, 99_000)


@pytest.mark.parametrize(("share", "flagged"), [(0.49, set()), (0.51, {"copy"})])
def test_a_phase_is_flagged_whose_larger_part_is_its_probes_own_cost(
    share: float, flagged: set[str], tmp_path: Path
) -> None:
    copied = load(synthetic.make_trace(tmp_path / "t", "epoll", 50)).calls["copy_ns"]
    mean = copied[copied > 0].mean()
    cost = dict.fromkeys(synthetic.RESOLUTION_NS, 1) | {"copy": share * mean}
    path = synthetic.make_trace(tmp_path / "costly", "epoll", 50, meta={"resolution_ns": cost})
    assert summarise([load(path)])["below_resolution"][0] == flagged


def test_a_broken_sum_is_found_in_its_row(tmp_path: Path) -> None:
    trace = load(synthetic.make_trace(tmp_path / "t", "epoll", 50))
    calls = trace.calls.copy()
    calls["check_ns"] += (calls.index == 13).astype("int64")
    assert open_calls(calls).index.tolist() == [13]
    threads = trace.threads.copy()
    threads["user_ns"] -= 1
    assert open_threads(threads).index.tolist() == [0]
