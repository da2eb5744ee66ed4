"""The spool of raw records."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from probes.calls import CALLS
from probes.layout import CALL, RECORD_SIZE
from tests.tracer.synthetic import call, joined, write_spool
from tracer.errors import IophaseError
from tracer.spool import SpoolWriter, open_spool


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Let no file grow beyond ``limit`` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    first, second = call(ts=1, bytes=7), call("epoll_wait", ts=2, result=3)
    opened = open_spool(write_spool(tmp_path / "spool", [first, second]))
    assert opened.records.tobytes() == joined(first, second).tobytes()


def test_opaque_records_from_the_ring_are_taken_as_they_are(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path / "spool", CALLS)
    writer.append(np.frombuffer(call(ts=5).tobytes(), f"V{RECORD_SIZE}"))
    writer.close()
    assert open_spool(writer.path).records["ts"].tolist() == [5]


def test_a_record_of_another_size_is_refused(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path / "spool", CALLS)
    with pytest.raises(ValueError, match="a record of 8 bytes"):
        writer.append(np.zeros(1, "V8"))
    writer.close()


def test_the_call_table_travels_with_the_records(tmp_path: Path) -> None:
    opened = open_spool(write_spool(tmp_path / "spool", []))
    assert opened.calls == tuple((entry.name, entry.kind) for entry in CALLS)
    assert len(opened.records) == 0


def test_records_are_on_disk_as_soon_as_they_are_appended(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path / "spool", CALLS)
    for count in (1, 2, 3):
        writer.append(call(ts=count))
        assert writer.records == count == len(open_spool(writer.path).records)
    writer.close()


def test_a_last_record_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = write_spool(tmp_path / "spool", [call(ts=1), call(ts=2)])
    path.write_bytes(path.read_bytes()[:-1])
    assert open_spool(path).records["ts"].tolist() == [1]


@pytest.mark.parametrize("room", [0, 1, RECORD_SIZE, 5 * RECORD_SIZE - 1, 5 * RECORD_SIZE])
def test_on_a_full_disk_whole_records_are_kept_and_the_error_names_the_file(
    tmp_path: Path, room: int
) -> None:
    writer = SpoolWriter(tmp_path / "spool", CALLS)
    header = writer.path.stat().st_size
    writer.append(call(ts=1))
    batch = joined(*(call(ts=ts) for ts in range(2, 12)))
    with (
        file_size_limit(header + RECORD_SIZE + room),
        pytest.raises(IophaseError, match=r"spool: cannot be written: .*records .* are kept"),
    ):
        writer.append(batch)
    kept = 1 + room // RECORD_SIZE
    assert writer.records == kept
    writer.append(call(ts=99))  # somebody made room
    writer.close()
    assert open_spool(writer.path).records["ts"].tolist() == [*range(1, kept + 1), 99]


def test_on_a_disk_without_room_for_the_header_nothing_is_left(tmp_path: Path) -> None:
    with file_size_limit(10), pytest.raises(IophaseError, match="nothing was recorded"):
        SpoolWriter(tmp_path / "spool", CALLS)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("mine")
    with pytest.raises(IophaseError, match="File exists"):
        SpoolWriter(tmp_path / "spool", CALLS)
    assert (tmp_path / "spool").read_text() == "mine"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "spool").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IophaseError, match="cannot be written"):
        SpoolWriter(tmp_path / "spool", CALLS)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "nothing to recover"),
        (b'{"iophase_spool": 1', "nothing to recover"),
        (b"ts_ns,duration_ns\n", "not a spool"),
        (b"[]\n", "not a spool"),
        (b'{"iophase_spool": 1}\n', "not a spool"),
        (b"\0" * (2 << 20), "nothing to recover"),
    ],
)
def test_what_is_not_a_spool_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(IophaseError, match=message):
        open_spool(path)


@pytest.mark.parametrize("change", [{"iophase_spool": 2}, {"layout": "x"}, {"record_size": 64}])
def test_a_spool_of_another_version_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = write_spool(tmp_path / "spool", [])
    header = json.loads(path.read_text()) | change
    path.write_text(json.dumps(header) + "\n")
    with pytest.raises(IophaseError, match="another version"):
        open_spool(path)


def test_a_missing_spool_is_named(tmp_path: Path) -> None:
    with pytest.raises(IophaseError, match=r"nowhere: cannot be read: No such file"):
        open_spool(tmp_path / "nowhere")


def test_the_records_begin_where_their_fields_are_aligned(tmp_path: Path) -> None:
    path = write_spool(tmp_path / "spool", [])
    assert path.stat().st_size % CALL.fields["ts"][0].itemsize == 0  # type: ignore[index]
