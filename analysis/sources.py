"""Where the rows of a table come from: the CSV file of a trace, or its Parquet export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from analysis.errors import TraceError
from analysis.parquet import read_parquet_batches
from analysis.schema import Table
from analysis.table_reader import arrow_schema, check_header, read_batches, to_frame

__all__ = ("check_source", "read_frame", "read_pieces", "source_bytes")

ROWS_PER_PIECE = 1 << 20
"""Rows of a piece: about 140 MB as a frame of all columns of calls."""


def _find(directory: Path, table: Table) -> Path:
    for path in (directory / table.file, directory / f"{table.name}.parquet"):
        if path.exists():
            return path
    raise TraceError(f"{directory / table.file}: no such file; the trace is incomplete")


def check_source(directory: Path, table: Table) -> None:
    """Raise TraceError unless ``directory`` has the rows of ``table`` with the right header."""
    path = _find(directory, table)
    if path.suffix == ".csv":
        check_header(path, table)


def source_bytes(directory: Path, table: Table) -> int:
    """Return the size of the file that holds a table."""
    return _find(directory, table).stat().st_size


def _batches(
    directory: Path, table: Table, columns: Sequence[str] | None
) -> Iterator[pa.RecordBatch]:
    path = _find(directory, table)
    read = read_batches if path.suffix == ".csv" else read_parquet_batches
    return read(path, table, columns)


def read_frame(directory: Path, table: Table, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a table whole, as nullable integers and categories. Raises TraceError."""
    schema = arrow_schema(table, columns)
    return to_frame(pa.Table.from_batches(_batches(directory, table, columns), schema=schema))


def read_pieces(
    directory: Path, table: Table, columns: Sequence[str] | None = None
) -> Iterator[pd.DataFrame]:
    """Yield a table in frames of about ``ROWS_PER_PIECE`` rows, at least one. Raises TraceError."""
    schema = arrow_schema(table, columns)
    pending: list[pa.RecordBatch] = []
    rows, yielded = 0, False
    for batch in _batches(directory, table, columns):
        pending.append(batch)
        rows += batch.num_rows
        if rows >= ROWS_PER_PIECE:
            yield to_frame(pa.Table.from_batches(pending, schema=schema))
            pending, rows, yielded = [], 0, True
    if pending or not yielded:
        yield to_frame(pa.Table.from_batches(pending, schema=schema))
