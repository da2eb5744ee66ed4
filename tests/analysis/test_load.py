"""A trace loads with the right types, or an error says which file, column and line is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis.errors import TraceError
from analysis.load import load, load_many
from analysis.schema import CALLS, DELIVERIES, SOCKETS, THREADS
from tests.analysis import synthetic


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return synthetic.make_trace(tmp_path / "epoll", "epoll", 50)


def edit(path: Path, change: Callable[[list[str]], None]) -> None:
    lines = path.read_text().splitlines()
    change(lines)
    path.write_text("\n".join(lines) + "\n")


def set_field(path: Path, line: int, column: str, value: str) -> None:
    def change(lines: list[str]) -> None:
        fields = lines[line - 1].split(",")
        fields[lines[0].split(",").index(column)] = value
        lines[line - 1] = ",".join(fields)

    edit(path, change)


def test_columns_have_the_documented_types(directory: Path) -> None:
    trace = load(directory)
    for table, frame in (
        (CALLS, trace.calls),
        (DELIVERIES, trace.deliveries),
        (THREADS, trace.threads),
        (SOCKETS, trace.sockets),
    ):
        assert list(frame.columns) == list(table.columns)
        types = {
            name: str(dtype).lower().replace("str", "string")
            for name, dtype in frame.dtypes.items()
        }
        assert types == dict(table.columns)


def test_values_are_read_back_exactly(tmp_path: Path) -> None:
    written = synthetic.make_calls("select", 100)
    read = load(synthetic.make_trace(tmp_path / "t", "select", 100)).calls
    for column in written:
        same = read[column].astype(object).where(read[column].notna(), None).tolist()
        assert same == written[column].astype(object).where(written[column].notna(), None).tolist()


def test_an_unknown_value_is_na_and_not_zero(directory: Path) -> None:
    calls = load(directory).calls
    waiting = calls[calls["call"] == "epoll_wait"]
    assert waiting["bytes"].isna().all()
    assert waiting["sleep_ns"].notna().all()


def test_a_trace_without_rows_loads(tmp_path: Path) -> None:
    nothing = synthetic.make_calls("epoll", 10).iloc[:0]
    path = synthetic.write_trace(
        tmp_path / "empty",
        nothing,
        synthetic.make_deliveries(nothing),
        synthetic.make_threads(nothing, None),
        synthetic.make_meta(None, 0, 0, 0),
    )
    trace = load(path)
    assert [len(trace.calls), len(trace.deliveries), len(trace.threads)] == [0, 0, 0]
    assert str(trace.calls["sleep_ns"].dtype) == "Int64"


def test_a_trace_with_one_call_loads(tmp_path: Path) -> None:
    trace = load(synthetic.make_trace(tmp_path / "one", "blocking", 1))
    assert len(trace.calls) == 1


def test_a_comma_in_a_comm_is_kept(directory: Path) -> None:
    set_field(directory / "threads.csv", 2, "comm", '"a,b"')
    assert load(directory).threads["comm"][0] == "a,b"


@pytest.mark.parametrize(
    ("column", "value"), [("duration_ns", "abc"), ("fd", "1.5"), ("cpu", "3000000000")]
)
def test_a_wrong_value_is_named_by_file_column_and_line(
    directory: Path, column: str, value: str
) -> None:
    set_field(directory / "calls.csv", 17, column, value)
    expected = f"{directory / 'calls.csv'}: line 17: column '{column}': '{value}' is not an int"
    with pytest.raises(TraceError, match=re.escape(expected)):
        _ = load(directory).calls


def test_an_empty_required_value_is_named_by_file_column_and_line(directory: Path) -> None:
    set_field(directory / "calls.csv", 9, "duration_ns", "")
    with pytest.raises(TraceError, match=r"calls.csv: line 9: column 'duration_ns' is empty"):
        _ = load(directory).calls


def test_a_file_cut_off_in_a_line_is_named_with_that_line(directory: Path) -> None:
    path = directory / "calls.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:30]) + "\n" + lines[30][:25])
    with pytest.raises(TraceError, match=r"calls.csv: line 31: \d+ fields, expected 20"):
        _ = load(directory).calls


def test_a_missing_column_is_named(directory: Path) -> None:
    edit(
        directory / "threads.csv", lambda lines: lines.__setitem__(0, lines[0].replace("role,", ""))
    )
    with pytest.raises(TraceError, match=r"threads.csv: line 1: column 'role' is missing"):
        load(directory)


def test_an_unknown_column_is_named(directory: Path) -> None:
    edit(directory / "calls.csv", lambda lines: lines.__setitem__(0, lines[0] + ",colour"))
    with pytest.raises(TraceError, match=r"calls.csv: line 1: unknown column 'colour'"):
        load(directory)


def test_columns_may_stand_in_another_order(directory: Path) -> None:
    expected = load(directory).calls
    expected.iloc[:, ::-1].to_csv(directory / "calls.csv", index=False)
    pd.testing.assert_frame_equal(
        load(directory).calls.astype(object), expected.astype(object), check_like=False
    )


def test_columns_of_probes_that_a_trace_did_not_have_are_unknown(directory: Path) -> None:
    trace = load(directory)
    assert trace.calls["function_ns"].isna().all()
    assert trace.deliveries["notifier"].isna().all()


def test_a_missing_file_is_named(directory: Path) -> None:
    (directory / "deliveries.csv").unlink()
    with pytest.raises(TraceError, match=r"deliveries.csv: no such file"):
        load(directory)


@pytest.mark.parametrize(
    ("version", "message"),
    [(2, "schema 2 is newer"), (0, "unknown schema 0"), ("x", "unknown schema 'x'")],
)
def test_another_schema_is_refused_with_its_number(
    tmp_path: Path, version: object, message: str
) -> None:
    path = synthetic.make_trace(tmp_path / "t", requests=3, meta={"schema": version})
    with pytest.raises(TraceError, match=message):
        load(path)


def test_a_json_that_is_not_from_iophase_is_refused(directory: Path) -> None:
    (directory / "trace.json").write_text('{"hello": 1}')
    with pytest.raises(TraceError, match=r"key 'schema' is missing: not made by iophase"):
        load(directory)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("started", "x"),
        ("unclosed", [1]),
        ("clock", 5),
        ("probes", "x"),
        ("targets", [None]),
        ("targets", None),
    ],
)
def test_a_key_of_another_type_is_named(directory: Path, key: str, value: object) -> None:
    meta = json.loads((directory / "trace.json").read_text())
    (directory / "trace.json").write_text(json.dumps({**meta, key: value}))
    with pytest.raises(TraceError, match=rf"trace.json: key '{key}': expected an? "):
        load(directory)


def test_a_missing_key_is_named(directory: Path) -> None:
    meta = json.loads((directory / "trace.json").read_text())
    del meta["lost"]
    (directory / "trace.json").write_text(json.dumps(meta))
    with pytest.raises(TraceError, match=r"trace.json: key 'lost' is missing"):
        load(directory)


def test_damaged_json_is_named_with_its_line(directory: Path) -> None:
    (directory / "trace.json").write_text('{"schema": 1,\n oops')
    with pytest.raises(TraceError, match=r"trace.json: line 2, column 2: not JSON"):
        load(directory)


def test_a_cut_short_directory_says_how_to_recover_it(tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.mkdir()
    (path / "trace.json.partial").write_text("{}")
    (path / "records.spool.partial").write_bytes(b"")
    with pytest.raises(TraceError, match=rf"cut short.*`iophase report {re.escape(str(path))}`"):
        load(path)


def test_what_is_not_a_trace_says_so(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path, message in (
        (tmp_path / "none", "no such directory"),
        (file, "not a trace directory but a file"),
        (tmp_path, "not a trace directory: it has no trace.json"),
    ):
        with pytest.raises(TraceError, match=message):
            load(path)


def test_a_directory_of_traces_stands_for_them_in_order_of_time(tmp_path: Path) -> None:
    for started, model in enumerate(("select", "blocking")):
        synthetic.make_trace(tmp_path / model, model, 3, meta={"started": started})
    assert [trace.model for trace in load_many([tmp_path])] == ["select", "blocking"]


def test_no_trace_at_all_is_an_error() -> None:
    with pytest.raises(TraceError, match="no trace given"):
        load_many([])
