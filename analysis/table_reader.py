"""Read one CSV file of a trace with the right types, or say exactly what is wrong with it."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from analysis.errors import TraceError
from analysis.schema import Table

__all__ = ("arrow_schema", "check_header", "read_batches", "to_frame")

_ARROW_TYPES: dict[str, pa.DataType] = {
    "int32": pa.int32(),
    "int64": pa.int64(),
    "category": pa.dictionary(pa.int32(), pa.string()),
    "string": pa.string(),
}
_PANDAS_TYPES: dict[pa.DataType, Any] = {
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
}
_INTEGER = r"^-?[0-9]{1,19}$"

BLOCK_BYTES = 8 << 20
"""Read this much text at a time: enough to keep both cores parsing, little beside the frame."""

FIRST_DATA_LINE = 2
"""Line 1 of a CSV file is its header; messages count lines the way editors do."""


def arrow_schema(table: Table, columns: Sequence[str] | None = None) -> pa.Schema:
    """Return the Arrow schema of ``table``, or of some of its columns."""
    names = table.columns if columns is None else columns
    return pa.schema([(name, _ARROW_TYPES[table.columns[name]]) for name in names])


def check_header(path: Path, table: Table) -> None:
    """Raise TraceError unless the first line of ``path`` names exactly the columns of ``table``."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header = next(csv.reader(file), [])
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: line 1: not text: {error.reason}") from error
    if not header:
        raise TraceError(
            f"{path}: empty file, expected a header line with {len(table.columns)} columns"
        )
    needed = [name for name in table.columns if name not in table.optional]
    if missing := [name for name in needed if name not in header]:
        raise TraceError(f"{path}: line 1: column {missing[0]!r} is missing")
    if unknown := [name for name in header if name not in table.columns]:
        raise TraceError(f"{path}: line 1: unknown column {unknown[0]!r}")
    if len(set(header)) != len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise TraceError(f"{path}: line 1: column {twice!r} occurs twice")


def _convert_options(table: Table, names: Sequence[str]) -> pacsv.ConvertOptions:
    return pacsv.ConvertOptions(
        column_types=arrow_schema(table, names),
        include_columns=list(names),
        include_missing_columns=True,
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )


def read_batches(
    path: Path, table: Table, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield ``path`` piece by piece, each as an Arrow batch with the types of ``table``.

    Raises TraceError that names the file, the column and the line of the first wrong value.
    """
    check_header(path, table)
    names = tuple(table.columns if columns is None else columns)
    rows = 0
    try:
        reader = pacsv.open_csv(
            pa.OSFile(os.fsencode(path)),  # of a path it takes UTF-8 alone
            read_options=pacsv.ReadOptions(block_size=BLOCK_BYTES),
            convert_options=_convert_options(table, names),
        )
        for batch in reader:
            _require_values(path, table, batch, rows)
            rows += batch.num_rows
            yield batch
    except pa.ArrowInvalid as error:
        raise _explain(path, table, names, error) from error


def _require_values(path: Path, table: Table, batch: pa.RecordBatch, rows_before: int) -> None:
    for name in batch.schema.names:
        column = batch.column(name)
        if name in table.required and column.null_count:
            row = rows_before + pc.index(pc.is_null(column), True).as_py()
            raise TraceError(f"{path}: line {row + FIRST_DATA_LINE}: column {name!r} is empty")


def _explain(path: Path, table: Table, names: Sequence[str], error: Exception) -> TraceError:
    """Find the first line that cannot be read, the slow way."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.reader(file)
        width = len(next(reader))
        for row in reader:
            if len(row) != width:
                return TraceError(
                    f"{path}: line {reader.line_num}: {len(row)} fields, expected {width}; "
                    "the file is damaged or was cut off"
                )
    text = pacsv.read_csv(
        pa.OSFile(os.fsencode(path)),
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.large_string()),
            include_columns=list(names),
            include_missing_columns=True,
            check_utf8=False,
        ),
    )
    for name in names:
        if not table.columns[name].startswith("int"):
            continue
        column = text.column(name).combine_chunks()
        good = pc.or_(pc.equal(column, ""), pc.match_substring_regex(column, _INTEGER))
        wrong = pc.index(good, False).as_py()
        if wrong < 0:
            wrong = _first_too_large(column, _ARROW_TYPES[table.columns[name]])
        if wrong >= 0:
            value = column[wrong].as_py()
            return TraceError(
                f"{path}: line {wrong + FIRST_DATA_LINE}: column {name!r}: "
                f"{value[:40]!r} is not an {_ARROW_TYPES[table.columns[name]]}"
            )
    return TraceError(f"{path}: {error}")


def _first_too_large(column: pa.Array, kind: pa.DataType) -> int:
    filled = pc.if_else(pc.equal(column, ""), None, column)
    try:
        pc.cast(filled, kind)
    except pa.ArrowInvalid:
        numbers = pc.cast(filled, pa.decimal128(19, 0))
        limit = 2 ** (kind.bit_width - 1)
        inside = pc.and_(pc.less(numbers, limit), pc.greater_equal(numbers, -limit))
        return int(pc.index(inside, False).as_py())
    return -1


def to_frame(data: pa.Table) -> pd.DataFrame:
    """Turn an Arrow table into a frame of nullable integers and categories; ``data`` is used up."""
    frame: pd.DataFrame = data.to_pandas(
        types_mapper=_PANDAS_TYPES.get, split_blocks=True, self_destruct=True, use_threads=True
    )
    return frame
