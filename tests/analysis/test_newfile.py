"""What is written beside a trace: whole or not at all, and through no link."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.errors import TraceError
from analysis.html import write_html
from analysis.newfile import replacing
from analysis.parquet import export_parquet
from analysis.perfetto import export_perfetto
from tests.analysis.synthetic import make_trace


def write_page(trace: Path, output: Path, *, force: bool = False) -> None:
    write_html([trace], output, force=force)


def test_a_file_is_there_when_it_is_complete_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"before")
    with pytest.raises(ZeroDivisionError), replacing(target) as file:
        file.write(b"half")
        _ = 1 / 0
    assert target.read_bytes() == b"before"
    with replacing(target) as file:
        file.write(b"whole")
        assert target.read_bytes() == b"before"
    assert target.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("write", [write_page, export_perfetto])
def test_what_is_no_file_is_never_replaced(write: Callable[..., object], tmp_path: Path) -> None:
    trace, pipe = make_trace(tmp_path / "trace"), tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(TraceError, match=r"pipe: is there and is not a file"):
        write(trace, pipe, force=True)
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    ("write", "output", "in_the_way"),
    [
        (write_page, "out", "out.partial"),
        (export_perfetto, "out", "out.partial"),
        (
            lambda trace, output: export_parquet(trace, output, force=True),
            "out",
            "out/calls.parquet.partial",
        ),
        (
            lambda trace, output: export_parquet(trace, output, force=True),
            "out",
            "out/trace.json.partial",
        ),
    ],
    ids=["page", "perfetto", "parquet", "parquet's trace.json"],
)
def test_nothing_that_somebody_has_put_there_is_written_through(
    write: Callable[[Path, Path], object], output: str, in_the_way: str, tmp_path: Path
) -> None:
    victim, link = tmp_path / "victim", tmp_path / in_the_way
    victim.write_text("precious")
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(victim)
    write(make_trace(tmp_path / "trace"), tmp_path / output)
    assert victim.read_text() == "precious"
    assert link.is_symlink()
