"""The Parquet export: the same rows, columns and types, far smaller; read back in pieces."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from analysis.errors import TraceError
from analysis.newfile import replacing
from analysis.schema import CONNECTIONS, EVIDENCE, TABLES, Table
from analysis.table_reader import arrow_schema, read_batches

__all__ = ("export_parquet", "parquet_writer", "read_parquet_batches")

ROWS_PER_GROUP = 1 << 20
"""Rows per row group: a piece of a few hundred MiB at most once it is a frame."""
COMPRESSION = "zstd"


def parquet_writer(target: Path | IO[bytes], table: Table) -> pq.ParquetWriter:
    """Open a Parquet file for rows of ``table``."""
    numbers = [name for name, kind in table.columns.items() if kind.startswith("int")]
    return pq.ParquetWriter(
        target,
        arrow_schema(table),
        compression=COMPRESSION,
        use_dictionary=[name for name in table.columns if name not in numbers],
        column_encoding=dict.fromkeys(numbers, "DELTA_BINARY_PACKED"),
    )


def _write_table(source: Path, target: Path, table: Table) -> int:
    schema = arrow_schema(table)
    rows = 0
    with replacing(target) as file, parquet_writer(file, table) as writer:
        pending: list[pa.RecordBatch] = []
        waiting = 0
        for batch in read_batches(source, table):
            pending.append(batch)
            waiting += batch.num_rows
            if waiting >= ROWS_PER_GROUP:
                writer.write_table(_one_group(pending, schema), ROWS_PER_GROUP)
                rows, waiting, pending = rows + waiting, 0, []
        if pending:
            writer.write_table(_one_group(pending, schema), ROWS_PER_GROUP)
            rows += waiting
    return rows


def _one_group(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_batches(batches, schema=schema).unify_dictionaries()


def export_parquet(
    directory: str | Path, target: str | Path, *, force: bool = False
) -> dict[str, int]:
    """Write a trace directory as Parquet into ``target``, with its ``trace.json``.

    Where sums were kept instead of rows, so are they.

    Rows are converted in pieces, so the trace may be larger than memory. Returns the rows per
    table. Raises TraceError when the trace is damaged, or ``target`` exists without ``force``.
    """
    from analysis.load import load_meta  # which reads Parquet, too

    source, out = Path(directory), Path(target)
    meta = load_meta(source)
    tables = (*TABLES, EVIDENCE, CONNECTIONS) if meta.get("summary") else TABLES
    if (source / "calls.parquet").exists():
        raise TraceError(f"{source}: is a Parquet export already")
    there = out.exists()
    if there and not force:
        raise TraceError(f"{out}: exists already; remove it or say --force")
    try:
        out.mkdir(parents=True, exist_ok=True)
        return _write_tables(source, out, tables)
    except OSError as error:
        raise TraceError(f"{error.filename or out}: {error.strerror or error}") from error
    finally:
        if not there and not (out / "trace.json").exists():
            shutil.rmtree(out, ignore_errors=True)


def _write_tables(source: Path, out: Path, tables: Sequence[Table]) -> dict[str, int]:
    """Write all files; ``trace.json`` comes last."""
    rows = {
        table.name: _write_table(source / table.file, out / f"{table.name}.parquet", table)
        for table in tables
    }
    with replacing(out / "trace.json") as file:
        file.write((source / "trace.json").read_bytes())
    return rows


def read_parquet_batches(
    path: Path, table: Table, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield a Parquet file piece by piece with the types of ``table``.

    Raises TraceError when the file is damaged or has other columns or types.
    """
    schema = arrow_schema(table, columns)
    try:
        # what is buffered ahead is kept until the end of the file
        file = pq.ParquetFile(pa.OSFile(os.fsencode(path)), pre_buffer=False)
        _check_schema(path, table, file.schema_arrow)
        present = [name for name in schema.names if name in file.schema_arrow.names]
        for batch in file.iter_batches(ROWS_PER_GROUP, columns=present):
            for name in schema.names:
                if name not in present:
                    nothing = pa.nulls(batch.num_rows, schema.field(name).type)
                    batch = batch.append_column(schema.field(name), nothing)
            yield batch.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, OSError) as error:
        raise TraceError(f"{path}: {error}") from error


def _check_schema(path: Path, table: Table, found: pa.Schema) -> None:
    expected = arrow_schema(table)
    for name in expected.names:
        if name not in found.names:
            if name in table.optional:
                continue
            raise TraceError(f"{path}: column {name!r} is missing")
        if not found.field(name).type.equals(expected.field(name).type):
            raise TraceError(
                f"{path}: column {name!r}: {found.field(name).type} "
                f"instead of {expected.field(name).type}"
            )
    if unknown := [name for name in found.names if name not in expected.names]:
        raise TraceError(f"{path}: unknown column {unknown[0]!r}")
