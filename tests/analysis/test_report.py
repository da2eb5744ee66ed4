"""The report fits its width, is plain when piped, and says what a reader must know."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from analysis.headline import headline
from analysis.load import load
from analysis.report import report_json, report_text
from analysis.summary import SHARES, summarise
from tests.analysis import synthetic

LOST = {"calls": 7, "deliveries": 0, "threads": 0, "total": 7}


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return synthetic.make_traces(tmp_path_factory.mktemp("traces"), requests=100)


def test_the_report_fits_100_columns_with_the_longest_figures(tmp_path: Path) -> None:
    workload = synthetic.make_workload(10**9) | {"requests_per_s": 1_234_567.0}
    meta = {"model": "io_uring_multishot_with_buffers", "workload": workload, "lost": LOST}
    text = report_text([synthetic.make_trace(tmp_path / "t", "epoll", 50, meta=meta)])
    assert max(map(len, text.splitlines())) <= 100
    assert "1,234,567" in text


def test_a_piped_report_has_no_escape_sequences(traces: list[Path]) -> None:
    assert "\x1b" not in report_text(traces)
    assert "\x1b[" in report_text(traces, colour=True)


def test_every_model_has_a_line_in_both_tables(traces: list[Path]) -> None:
    text = report_text(traces)
    for path in traces:
        assert sum(line.startswith(path.name + " ") for line in text.splitlines()) == 2


def test_models_stand_below_their_family(traces: list[Path]) -> None:
    families = {"epoll": "multiplexing", "select": "multiplexing", "blocking": "one call"}
    lines = [
        line.split()[0] for line in report_text(traces, families=families).splitlines() if line
    ]
    start = lines.index("multiplexing")
    assert lines[start + 1 : start + 3] == ["select", "epoll"]


def test_a_loss_is_on_the_first_line(tmp_path: Path) -> None:
    path = synthetic.make_trace(tmp_path / "lossy", requests=50, meta={"lost": LOST})
    first = report_text([path]).splitlines()[0]
    assert first.startswith("LOST EVENTS in lossy: 7 of ")


def test_a_trace_cut_short_says_so_first_and_its_losses_are_unknown(tmp_path: Path) -> None:
    unknown = {"cut_short": True, "lost": None, "emitted": None}
    path = synthetic.make_trace(tmp_path / "t", requests=50, meta=unknown)
    header = (path / "threads.csv").read_text().splitlines()[0]
    (path / "threads.csv").write_text(header + "\n")
    text = report_text([path])
    assert text.startswith("CUT SHORT: the recording of t died; losses are unknown")
    assert text.splitlines()[-1].startswith("Backend")
    row = json.loads(report_json([path]))["traces"][0]
    assert row["lost"] is None and row["sleep"] is None
    assert row["delivery_p50_ns"] == 10_000


def test_a_row_that_does_not_add_up_is_called_a_defect(tmp_path: Path) -> None:
    path = synthetic.make_trace(tmp_path / "t", requests=50, meta={"unclosed": 2})
    assert report_text([path]).startswith("DEFECT: 2 rows of t not adding up")


def test_a_server_that_was_seen_in_part_is_named_and_kept_out_of_the_verdict(
    tmp_path: Path, traces: list[Path]
) -> None:
    workload = synthetic.make_workload(1000)
    part = synthetic.make_trace(
        tmp_path / "pool", "epoll", 50, meta={"model": "pool", "workload": workload}
    )
    note = "pool: 50 deliveries for 1,000 requests: a part of the server was not traced."
    assert note in report_text([part, *traces])
    assert "not traced" not in report_text(traces)
    summary = summarise(map(load, [part, *traces]))
    assert "pool" not in " ".join(headline(summary))
    assert list(headline(summary[:1])) == []


def test_the_verdict_names_the_cheapest_and_the_dearest(traces: list[Path]) -> None:
    summary = summarise(map(load, traces))
    wait, cost, late = headline(summary)
    low, high = summary["wait"].min() * 100, summary["wait"].max() * 100
    assert wait.startswith(f"Waiting took {low:.1f} to {high:.1f} % of the threads' wall time")
    assert re.fullmatch(r"A request cost .* CPU time with blocking, .* with poll\.", cost)
    assert late.startswith("99 % of the data was in the process within 10.0 us")


def test_traces_of_two_backends_carry_a_warning(tmp_path: Path) -> None:
    paths = [
        synthetic.make_trace(tmp_path / backend, requests=50, meta={"backend": backend})
        for backend in ("fentry", "tracepoint")
    ]
    assert "different backends" in report_text(paths)
    assert "different backends" not in report_text(paths[:1])


def test_what_the_probes_cost_in_a_phase_that_is_flagged_is_said_of_all_traces(
    tmp_path: Path,
) -> None:
    paths = [
        synthetic.make_trace(
            tmp_path / str(copy), requests=50, meta={"resolution_ns": {"copy": copy, "check": 1}}
        )
        for copy in (1, 700, 900)
    ]
    cheap, *dear = (line for line in report_text(paths).splitlines() if line.startswith("epoll ("))
    assert "~" not in cheap and all("~" in line for line in dear[:2])
    note = "~ below resolution: half of it or more is what the probes themselves cost"
    assert f"{note} (copy 700 ns to 900 ns a call)." in " ".join(report_text(paths).split())
    assert "below resolution" not in report_text(paths[:1])


def test_a_trace_whose_probes_could_not_be_calibrated_is_named(tmp_path: Path) -> None:
    paths = [
        synthetic.make_trace(tmp_path / name, requests=50, meta={"resolution_ns": cost})
        for name, cost in (("bare", {}), ("calibrated", {"copy": 1}))
    ]
    text = " ".join(report_text(paths).split())
    assert "What the probes cost was not to be measured in bare: no ~ there." in text
    assert "not to be measured" not in report_text(paths[1:])


def test_what_the_probes_did_not_see_of_submitted_receives_is_said_once(tmp_path: Path) -> None:
    unseen = {"name": "sock_recv_length", "phase": "deliveries", "attached": None, "detail": "why"}
    paths = []
    for name in ("one", "other"):
        path = synthetic.make_trace(tmp_path / name, requests=50, meta={"probes": [unseen]})
        calls = (path / "calls.csv").read_text()
        (path / "calls.csv").write_text(calls.replace("epoll_wait", "io_uring_enter"))
        paths.append(path)
    text = " ".join(report_text(paths).split())
    assert text.count("what io_uring and native AIO received") == 1
    assert "one, other: what io_uring" in text and "is not in the traces (why)." in text


def test_two_traces_of_one_model_are_told_apart(tmp_path: Path) -> None:
    paths = [synthetic.make_trace(tmp_path / name, requests=50) for name in ("a", "b")]
    text = report_text(paths)
    assert "epoll (a)" in text and "epoll (b)" in text


def test_traces_of_one_name_are_told_apart_by_the_directory_above(tmp_path: Path) -> None:
    paths = [synthetic.make_trace(tmp_path / idle / "epoll", requests=5) for idle in ("i0", "i9")]
    text = report_text(paths)
    assert "epoll (i0)" in text and "epoll (i9)" in text
    assert "epoll #2" in report_text([paths[0], paths[0]])


def test_json_gives_the_numbers_of_the_api(traces: list[Path]) -> None:
    rows = json.loads(report_json(traces))["traces"]
    summary = summarise(map(load, traces)).to_dict("records")
    for row, expected in zip(rows, summary, strict=True):
        assert [row[share] for share in SHARES] == [expected[share] for share in SHARES]


def test_json_writes_null_for_an_absent_figure(tmp_path: Path) -> None:
    path = synthetic.make_trace(
        tmp_path / "t", requests=50, meta={"workload": None, "started": None}
    )
    row = json.loads(report_json([path]))["traces"][0]
    assert row["requests_per_s"] is None


def test_a_model_that_could_not_be_run_is_a_row_with_the_reason(traces: list[Path]) -> None:
    families = {"epoll": "multiplexing", "select": "multiplexing", "io_uring": "asynchronous"}
    absent = {"select": "2000 clients, and " + "a reason " * 20, "io_uring": "needs Linux 5.7"}
    epoll = [path for path in traces if path.name == "epoll"]
    text = report_text(epoll, families=families, absent=absent)
    lines = text.splitlines()
    assert lines.count("  io_uring    needs Linux 5.7") == 2
    start = lines.index("multiplexing")
    assert lines[start + 1].startswith("  epoll ")
    assert lines[start + 2].startswith("  select      2000 clients, and a reason a reason")
    assert lines[start + 3].startswith(" " * 14 + "reason")
    assert lines[start + 3 :].index("asynchronous") < 5
    assert max(map(len, lines)) <= 100
    assert json.loads(report_json(epoll, families=families, absent=absent))["absent"][1] == {
        "model": "io_uring",
        "family": "asynchronous",
        "reason": "needs Linux 5.7",
    }


def test_the_best_and_the_worst_of_a_column_are_marked(tmp_path: Path) -> None:
    rates = {"epoll": 500.0, "poll": 300.0, "select": 100.0}
    paths = [
        synthetic.make_trace(
            tmp_path / name,
            name,
            50,
            meta={"workload": synthetic.make_workload(50) | {"requests_per_s": rate}},
        )
        for name, rate in rates.items()
    ]
    text = report_text(paths)
    assert re.search(r"epoll +500▲ ", text)
    assert re.search(r"poll +300  ", text)
    assert re.search(r"select +100▼ ", text)
    assert "▲ best and ▼ worst of the column" in text
    assert "▲" not in report_text(paths[:2])
    assert "2.00 " in text  # calls per request: the same of all, so nobody is marked
    assert not re.search("2[.]00[▲▼]", text)
