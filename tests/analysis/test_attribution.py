"""Attribution returns the phases that were put into a trace, whatever the grouping."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.attribution import PER, attribute
from analysis.load import Trace, load
from analysis.summary import SHARES, summarise
from analysis.totals import GROUPS, SUMS, call_totals
from tests.analysis import synthetic

REQUESTS = 307


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> list[Trace]:
    directories = synthetic.make_traces(tmp_path_factory.mktemp("traces"), requests=REQUESTS)
    return [load(directory) for directory in directories]


@pytest.fixture(scope="module")
def repetitions(tmp_path_factory: pytest.TempPathFactory) -> list[Trace]:
    parent = tmp_path_factory.mktemp("repetitions")
    return [
        load(synthetic.make_trace(parent / str(seed), "epoll", 200 + seed, seed=seed))
        for seed in range(6)
    ]


def test_shares_are_those_of_the_summary(traces: list[Trace]) -> None:
    attributed = attribute(traces).set_index("model")
    summary = summarise(traces).set_index("model")
    for share in (*SHARES, "wait"):
        assert attributed[f"{share}_share"].tolist() == summary[share].tolist()


def test_time_per_request_is_the_sum_over_the_requests(traces: list[Trace]) -> None:
    by_model = attribute(traces, per="request").set_index("model")
    for trace in traces:
        for phase in synthetic.PHASES:
            expected = int(trace.calls[phase].sum()) / REQUESTS
            assert by_model.loc[trace.name, f"{phase}_per_request"] == pytest.approx(expected)


def test_absolute_times_are_those_of_the_ledger(traces: list[Trace]) -> None:
    table = attribute(traces, per="trace").set_index("model")
    for trace in traces:
        row = table.loc[trace.name]
        for phase in ("sleep", "copy", "overhead"):
            assert row[f"{phase}_ns_per_trace"] == trace.threads[f"{phase}_ns"].sum()


def test_each_kind_of_call_gets_its_own_phases(traces: list[Trace]) -> None:
    by_call = attribute(traces, by="call", per="call").set_index(["model", "call"])
    for model, spans in synthetic.MODELS.items():
        if model == "nonblocking":
            continue  # its receives share one name
        for span in spans:
            group = (model, span.call)
            assert by_call["calls"][group] == REQUESTS
            for phase in ("sleep", "runq", "check", "copy", "overhead"):
                drawn = getattr(span, phase)
                assert by_call[f"{phase}_ns_per_call"][group] == pytest.approx(drawn, rel=0.1)


def test_calls_add_up_to_their_model(traces: list[Trace]) -> None:
    columns = [f"{phase}_per_request" for phase in ("wait_ns", *synthetic.PHASES)]
    by_call = attribute(traces, by="call", per="request").groupby("model")[columns].sum()
    by_model = attribute(traces, by="model", per="request").set_index("model")[columns]
    pd.testing.assert_frame_equal(by_call, by_model.sort_index())


@pytest.mark.parametrize("by", GROUPS)
def test_every_group_accounts_for_every_call_and_byte(traces: list[Trace], by: str) -> None:
    grouped = attribute(traces, by=by)
    for trace in traces:
        own = grouped[grouped["model"] == trace.name]
        assert [own["calls"].sum(), own["bytes"].sum()] == [len(trace.calls), 64 * REQUESTS]


def test_connections_are_the_sockets_that_received(traces: list[Trace]) -> None:
    epoll = next(trace for trace in traces if trace.name == "epoll")
    row = attribute([epoll], per="connection").iloc[0]
    assert row["copy_ns_per_connection"] == int(epoll.calls["copy_ns"].sum()) / 8


def test_a_byte_costs_the_copy_divided_by_the_bytes(traces: list[Trace]) -> None:
    rows = attribute(traces, per="byte").set_index("model")
    for trace in traces:
        expected = int(trace.calls["copy_ns"].sum()) / (64 * REQUESTS)
        assert rows.loc[trace.name, "copy_ns_per_byte"] == pytest.approx(expected)


@pytest.mark.parametrize("per", PER)
def test_repetitions_are_pooled_and_lie_inside_their_interval(
    repetitions: list[Trace], per: str
) -> None:
    row = attribute(repetitions, per=per).iloc[0]
    suffix = PER[per]
    assert row["traces"] == len(repetitions)
    for part in ("wait", "sleep", "copy", "cpu"):
        low, middle, high = (row[f"{part}_{suffix}{end}"] for end in ("_low", "", "_high"))
        assert low < middle < high


def test_fewer_than_three_repetitions_have_no_interval(repetitions: list[Trace]) -> None:
    row = attribute(repetitions[:2]).iloc[0]
    assert row["wait_share"] > 0
    assert np.isnan(row["wait_share_low"])


def test_the_interval_is_the_same_every_time(repetitions: list[Trace]) -> None:
    pd.testing.assert_frame_equal(attribute(repetitions), attribute(repetitions))


def test_the_interval_covers_the_true_value_about_as_often_as_it_says(tmp_path: Path) -> None:
    from analysis.bootstrap import ratio_intervals

    generator = np.random.default_rng(5)
    hits = 0
    trials = 200
    for _ in range(trials):
        requests = generator.integers(50, 150, 12).astype(float)
        times = generator.normal(1000, 100, 12) * requests
        low, high = ratio_intervals(times[:, np.newaxis], requests)
        hits += bool(low[0] <= 1000 <= high[0])
    # the percentile bootstrap of 12 units is known to be a little too narrow
    assert 0.85 * trials <= hits <= 0.99 * trials


def test_a_call_that_one_repetition_lacks_counts_as_zero_there(tmp_path: Path) -> None:
    first = load(synthetic.make_trace(tmp_path / "a", "epoll", 100, meta={"model": "m"}))
    second = load(synthetic.make_trace(tmp_path / "b", "blocking", 100, meta={"model": "m"}))
    rows = attribute([first, second], by="call", per="request").set_index("call")
    assert (
        rows.loc["epoll_wait", "check_ns_per_request"] == int(first.calls["check_ns"].sum()) / 200
    )


def test_pieces_give_the_totals_of_the_whole(
    traces: list[Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = traces[-1].path
    for by in GROUPS:
        whole = call_totals(load(directory), by)
        monkeypatch.setattr("analysis.table_reader.BLOCK_BYTES", 4096)
        monkeypatch.setattr("analysis.sources.ROWS_PER_PIECE", 50)
        pd.testing.assert_frame_equal(call_totals(load(directory), by), whole)
        monkeypatch.undo()


def test_an_empty_trace_has_totals_of_zero(tmp_path: Path) -> None:
    nothing = synthetic.make_calls("epoll", 10).iloc[:0]
    trace = load(
        synthetic.write_trace(
            tmp_path / "empty",
            nothing,
            synthetic.make_deliveries(nothing),
            synthetic.make_threads(nothing, None),
            synthetic.make_meta(None, 0, 0, 0),
        )
    )
    totals = call_totals(trace, "model")
    assert totals[["calls", "bytes", "call_ns"]].iloc[0].tolist() == [0, 0, 0]
    assert list(totals) == list(SUMS)
    for by in GROUPS:
        attribute([trace], by=by)


def test_an_unknown_grouping_is_refused_by_name(traces: list[Trace]) -> None:
    with pytest.raises(ValueError, match="by='colour': expected one of model, call"):
        attribute(traces, by="colour")
    with pytest.raises(ValueError, match="per='mile'"):
        attribute(traces, per="mile")
