"""The Parquet export holds the same rows, and is read like the directory it came from."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.attribution import attribute
from analysis.errors import TraceError
from analysis.load import load
from analysis.parquet import export_parquet
from tests.analysis import synthetic


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return synthetic.make_trace(tmp_path / "select", "select", 200)


def test_the_export_reads_back_the_same_frames(directory: Path, tmp_path: Path) -> None:
    rows = export_parquet(directory, tmp_path / "parquet")
    csv, parquet = load(directory), load(tmp_path / "parquet")
    for name in ("calls", "deliveries", "threads"):
        expected, found = getattr(csv, name), getattr(parquet, name)
        assert rows[name] == len(expected)
        pd.testing.assert_frame_equal(found, expected)
    assert csv.meta == parquet.meta


def test_an_export_in_many_row_groups_is_the_same(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.table_reader.BLOCK_BYTES", 4096)
    monkeypatch.setattr("analysis.parquet.ROWS_PER_GROUP", 64)
    export_parquet(directory, tmp_path / "parquet")
    assert pq.ParquetFile(tmp_path / "parquet" / "calls.parquet").num_row_groups > 3
    pd.testing.assert_frame_equal(load(tmp_path / "parquet").calls, load(directory).calls)
    pd.testing.assert_frame_equal(
        attribute([load(tmp_path / "parquet")], by="call"), attribute([load(directory)], by="call")
    )


def test_an_existing_target_is_kept_unless_forced(directory: Path, tmp_path: Path) -> None:
    target = tmp_path / "parquet"
    export_parquet(directory, target)
    with pytest.raises(TraceError, match="exists already"):
        export_parquet(directory, target)
    export_parquet(directory, target, force=True)


def test_a_damaged_trace_leaves_nothing_behind(directory: Path, tmp_path: Path) -> None:
    lines = (directory / "calls.csv").read_text().splitlines()
    (directory / "calls.csv").write_text("\n".join([*lines, "1,2,3"]))
    with pytest.raises(TraceError, match="3 fields, expected 20"):
        export_parquet(directory, tmp_path / "parquet")
    assert not (tmp_path / "parquet").exists()


def test_what_is_not_a_trace_of_csv_files_is_named(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"not a trace but a directory of 1 traces"):
        export_parquet(tmp_path, tmp_path / "out")
    export_parquet(directory, tmp_path / "parquet")
    with pytest.raises(TraceError, match=r"parquet: is a Parquet export already"):
        export_parquet(tmp_path / "parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_type_is_named_by_file_and_column(directory: Path, tmp_path: Path) -> None:
    target = tmp_path / "parquet"
    export_parquet(directory, target)
    table = pq.read_table(target / "calls.parquet")
    index = table.schema.get_field_index("fd")
    pq.write_table(
        table.set_column(index, "fd", table.column("fd").cast(pa.float64())),
        target / "calls.parquet",
    )
    with pytest.raises(TraceError, match=r"calls.parquet: column 'fd': double instead of int32"):
        _ = load(target).calls
