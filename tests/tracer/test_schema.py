"""SCHEMA.md against what is written."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from analysis.schema import TABLES
from tracer.convert import CSV_COLUMNS
from tracer.traceinfo import ProbeState, TraceInfo

SCHEMA_MD = Path(__file__).resolve().parents[2] / "SCHEMA.md"


def documented(section: str) -> list[list[str]]:
    """Return the cells of the rows of the table in the section of that name."""
    text = SCHEMA_MD.read_text()
    body = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in body.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in rows]


@pytest.mark.parametrize("file", CSV_COLUMNS)
def test_every_column_is_documented_in_its_order(file: str) -> None:
    assert [row[0].strip("`") for row in documented(file)] == list(CSV_COLUMNS[file])


@pytest.mark.parametrize("file", CSV_COLUMNS)
def test_every_column_has_a_type_and_an_example_of_it(file: str) -> None:
    for column, kind, unit, _, example in documented(file):
        assert kind in ("integer", "string"), column
        assert (kind == "integer") == bool(re.fullmatch(r"`-?\d+`", example)), column
        assert (unit == "ns") == column.strip("`").endswith("_ns"), column


def test_every_key_of_trace_json_is_documented_with_an_example() -> None:
    rows = documented("trace.json")
    assert {row[0].strip("`") for row in rows} == {field.name for field in fields(TraceInfo)}
    types = {"integer": int, "string": str, "object": dict, "array": list, "boolean": bool}
    for key, kind, _, example in rows:
        assert type(json.loads(example.strip("`"))) is types[kind], key
        if key == "`probes`":
            assert set(json.loads(example.strip("`"))[0]) == set(ProbeState.__annotations__)


def test_what_is_written_is_what_is_read() -> None:
    for table in TABLES:
        assert tuple(table.columns) == CSV_COLUMNS[table.file]
