"""A comparison finds a change that is there, and none where there is only noise."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.compare import compare, warnings
from analysis.load import Trace, load
from tests.analysis import synthetic


def repeat(parent: Path, name: str, model: str, seeds: range) -> list[Trace]:
    return [
        load(synthetic.make_trace(parent / f"{name}-{seed}", model, 400, seed=seed))
        for seed in seeds
    ]


@pytest.mark.parametrize("repetitions", [1, 5])
def test_a_change_is_found_and_the_rest_is_left_alone(tmp_path: Path, repetitions: int) -> None:
    select = repeat(tmp_path, "select", "select", range(repetitions))
    poll = repeat(tmp_path, "poll", "poll", range(10, 10 + repetitions))
    table = compare(select, poll).set_index("figure")
    assert table["noise"].eq("repetitions" if repetitions > 1 else "slices").all()
    check = table.loc["check_ns_per_receive"]
    assert check["changed"]
    assert check["low"] < 2000 < check["high"]
    assert check["ratio"] == pytest.approx(11 / 9, rel=0.05)
    for same in ("copy_ns_per_receive", "runq_ns_per_receive", "calls_per_receive"):
        assert not table["changed"][same]


def test_noise_is_seldom_called_a_change(tmp_path: Path) -> None:
    traces = repeat(tmp_path, "epoll", "epoll", range(24))
    called = [
        compare(traces[index : index + 1], traces[index + 1 : index + 2]).set_index("figure")[
            "changed"
        ]["sleep_ns_per_receive"]
        for index in range(0, 24, 2)
    ]
    assert sum(map(bool, called)) <= 3


def test_idle_time_around_a_burst_does_not_hide_a_change(tmp_path: Path) -> None:
    def burst(name: str, model: str) -> Trace:
        calls = synthetic.make_calls(model, 200)
        calls["ts_ns"] += 60 * 10**9 * (calls.index > 0)
        deliveries = synthetic.make_deliveries(calls)
        threads = synthetic.make_threads(calls, model)
        meta = synthetic.make_meta(model, len(calls), 200, 1)
        return load(synthetic.write_trace(tmp_path / name, calls, deliveries, threads, meta))

    table = compare([burst("a", "select")], [burst("b", "poll")]).set_index("figure")
    assert table["changed"]["check_ns_per_receive"]
    assert not table["changed"]["copy_ns_per_receive"]


def test_an_empty_trace_compares_as_unknown(tmp_path: Path) -> None:
    nothing = synthetic.make_calls("epoll", 10).iloc[:0]
    empty = load(
        synthetic.write_trace(
            tmp_path / "empty",
            nothing,
            synthetic.make_deliveries(nothing),
            synthetic.make_threads(nothing, None),
            synthetic.make_meta(None, 0, 0, 0),
        )
    )
    full = repeat(tmp_path, "epoll", "epoll", range(1))
    assert compare([empty], full)["changed"].isna().all()


def test_what_makes_a_comparison_unfair_is_said(tmp_path: Path) -> None:
    lost = {"calls": 5, "deliveries": 0, "threads": 0, "total": 5}
    first = synthetic.make_trace(tmp_path / "a", requests=20)
    second = synthetic.make_trace(
        tmp_path / "b",
        requests=20,
        connections=9,
        meta={"backend": "fentry", "kernel": "6.1.0", "lost": lost, "cut_short": True},
    )
    said = list(warnings([load(first), load(second)]))
    assert said[:2] == [
        "different backends: fentry, tracepoint",
        "different kernels: 6.1.0, 6.18.44",
    ]
    assert said[2].startswith("different loads: 8 connections")
    assert said[3:] == ["b lost 5 of 61 events", "b was cut short"]
    assert list(warnings([load(first)])) == []
