"""The trace directory: made, finished, interrupted, killed, recovered."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from probes.calls import CALLS
from tests.tracer.synthetic import call, joined, thread
from tests.tracer.test_spool import file_size_limit
from tracer import newfile
from tracer.errors import FAILED, USAGE, IophaseError
from tracer.tracedir import TRACE_FILES, TraceDirectory, create, is_cut_short, read_info, recover
from tracer.traceinfo import Clock, TraceInfo

PARTIAL = {"records.spool.partial", "trace.json.partial"}
COMPLETE = set(TRACE_FILES)
ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534


def info(**values: Any) -> TraceInfo:
    clock: Clock = {"monotonic_ns": 100, "realtime_ns": 1_700_000_000_000_000_000}
    fields: dict[str, Any] = {
        "iophase": "0.1", "kernel": "6.1", "arch": "x86_64", "backend": "tracepoint",
        "clock": clock, "started": 100,
    }  # fmt: skip
    return TraceInfo(**fields | values)


def begin(path: Path, calls: int = 3, force: bool = False) -> TraceDirectory:
    directory = create(path, info(), CALLS, force)
    directory.spool.append(joined(*(call(ts=ts, sleep=5) for ts in range(1, calls + 1))))
    return directory


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


def rows(path: Path) -> list[dict[str, str]]:
    with (path / "calls.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def interrupt(done: int, total: int) -> None:
    raise KeyboardInterrupt


def test_while_a_trace_is_made_nothing_has_its_final_name(tmp_path: Path) -> None:
    directory = begin(tmp_path / "trace")
    assert names(directory.path) == PARTIAL
    directory.spool.close()


def test_a_finished_trace_has_its_files_and_nothing_else(tmp_path: Path) -> None:
    directory = begin(tmp_path / "trace")
    done = directory.finish(info(stopped=500))
    assert names(directory.path) == COMPLETE
    assert done.calls == len(rows(directory.path)) == 3
    assert read_info(directory.path) == directory.info
    assert directory.info == info(
        stopped=500, recorded={"calls": 3, "deliveries": 0, "threads": 0, "total": 3}
    )


def test_missing_parents_are_made(tmp_path: Path) -> None:
    directory = begin(tmp_path / "a" / "b" / "c")
    directory.finish(info())
    assert names(tmp_path / "a" / "b" / "c") == COMPLETE


def test_the_model_is_in_the_threads(tmp_path: Path) -> None:
    directory = begin(tmp_path / "trace")
    directory.spool.append(thread(tid=1, user=5))
    directory.finish(info(model="epoll"))
    assert ",epoll," in (directory.path / "threads.csv").read_text()


def test_a_defect_of_the_probes_is_in_the_trace(tmp_path: Path) -> None:
    directory = begin(tmp_path / "trace")
    directory.spool.append(joined(call(ts=9, duration=1, sleep=2), thread(tid=1, wall=1)))
    directory.finish(info())
    assert read_info(directory.path).unclosed == 2


# An output that is there already


def test_an_existing_trace_is_not_overwritten(tmp_path: Path) -> None:
    begin(tmp_path / "trace").finish(info())
    with pytest.raises(IophaseError, match=r"trace: exists: .*--force") as caught:
        create(tmp_path / "trace", info(), CALLS)
    assert caught.value.exit_code == USAGE
    assert names(tmp_path / "trace") == COMPLETE


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    begin(tmp_path).finish(info())
    assert names(tmp_path) == COMPLETE


def test_force_replaces_a_trace_and_keeps_other_files(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    begin(path, calls=3).finish(info())
    (path / "notes.txt").write_text("mine")
    begin(path, calls=5, force=True).finish(info())
    assert names(path) == COMPLETE | {"notes.txt"}
    assert len(rows(path)) == 5


def test_the_earlier_trace_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    begin(path, calls=3).finish(info())
    directory = begin(path, calls=5, force=True)
    assert read_info(path).recorded == {"calls": 3, "deliveries": 0, "threads": 0, "total": 3}
    directory.abandon()
    assert names(path) == COMPLETE
    assert len(rows(path)) == 3


def test_force_replaces_a_trace_that_was_cut_short(tmp_path: Path) -> None:
    begin(tmp_path / "trace", calls=3).spool.close()
    begin(tmp_path / "trace", calls=5, force=True).finish(info())
    assert names(tmp_path / "trace") == COMPLETE
    assert len(rows(tmp_path / "trace")) == 5


@pytest.mark.parametrize("force", [False, True])
def test_a_directory_that_is_no_trace_is_never_taken(tmp_path: Path, force: bool) -> None:
    (tmp_path / "calls.csv").write_text("mine")
    with pytest.raises(IophaseError, match="exists"):
        create(tmp_path, info(), CALLS, force)
    assert names(tmp_path) == {"calls.csv"}


@pytest.mark.parametrize("force", [False, True])
def test_a_file_or_a_link_is_never_taken(tmp_path: Path, force: bool) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link", "dangling"):
        with pytest.raises(IophaseError, match="not a directory"):
            create(tmp_path / name, info(), CALLS, force)
    assert names(tmp_path) == {"file", "link", "dangling"}


def test_a_trace_that_is_being_recorded_is_not_replaced_nor_recovered(tmp_path: Path) -> None:
    directory = begin(tmp_path / "trace")
    with pytest.raises(IophaseError, match="is being recorded"):
        create(directory.path, info(), CALLS, force=True)
    with pytest.raises(IophaseError, match="is being recorded"):
        recover(directory.path)
    with pytest.raises(IophaseError, match="is being recorded"):
        read_info(directory.path)
    directory.finish(info())
    assert len(rows(directory.path)) == 3


def test_a_trace_that_is_abandoned_leaves_nothing(tmp_path: Path) -> None:
    begin(tmp_path / "trace").abandon()
    assert names(tmp_path) == set()


def test_a_trace_that_is_abandoned_leaves_a_directory_that_was_there(tmp_path: Path) -> None:
    begin(tmp_path).abandon()
    assert names(tmp_path) == set()
    assert tmp_path.is_dir()


# Trouble while it is written


@contextmanager
def as_nobody() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_directory_that_cannot_be_made_is_named_with_the_cause(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o555)
        with (
            as_nobody(),
            pytest.raises(IophaseError, match=r"trace: .*Permission denied") as caught,
        ):
            create(Path(directory) / "trace", info(), CALLS)
        assert caught.value.exit_code == FAILED
    (tmp_path / "file").write_text("")
    with pytest.raises(IophaseError, match=r"trace: .*Not a directory"):
        create(tmp_path / "file" / "trace", info(), CALLS)


def test_ctrl_c_in_the_conversion_loses_nothing(tmp_path: Path) -> None:
    directory = begin(tmp_path / "trace")
    with pytest.raises(KeyboardInterrupt):
        directory.finish(info(stopped=77), interrupt)
    assert names(directory.path) == PARTIAL
    assert is_cut_short(directory.path)
    found = recover(directory.path)
    assert names(directory.path) == COMPLETE
    assert len(rows(directory.path)) == 3
    assert (found.stopped, found.cut_short) == (77, False)
    assert found == read_info(directory.path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root: run the tests with sudo")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_disk_that_fills_up_while_recording_keeps_what_was_measured(small_disk: Path) -> None:
    directory = create(small_disk / "trace", info(), CALLS)
    batch = joined(*(call(ts=ts) for ts in range(1_000)))
    with pytest.raises(IophaseError, match=r"No space left on device; the [\d,]+ records"):
        for _ in range(100):
            directory.spool.append(batch)
    kept = directory.spool.records
    assert 5_000 < kept < 8_000
    with pytest.raises(IophaseError, match=r"No space left on device"):
        directory.finish(info())
    assert names(directory.path) == PARTIAL
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    recover(directory.path)
    assert len(rows(directory.path)) == kept
    assert names(directory.path) == COMPLETE


KILLED = """
import sys, time
from pathlib import Path
from probes.calls import CALLS
from tests.bench.bench_convert import busy_server
from tests.tracer.test_tracedir import info
from tracer.tracedir import create

path, rows, when = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])

def progress(done, total):
    if done >= when * total:
        print("here", flush=True)

directory = create(path, info(), CALLS)
directory.spool.append(busy_server(rows))
if when < 0:
    print("here", flush=True)
    time.sleep(60)
directory.finish(info(stopped=123), progress)
print("done", flush=True)
time.sleep(60)
"""


def killed_at(path: Path, rows: int, when: float) -> None:
    """Record in another process, and kill it when that much has been converted (-1: before)."""
    command = [sys.executable, "-c", KILLED, str(path), str(rows), str(when)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)


def test_a_recording_that_is_killed_can_be_recovered_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    killed_at(path, 1_009, -1)
    assert names(path) == PARTIAL
    with pytest.raises(IophaseError, match="was cut short"):
        read_info(path)
    found = recover(path)
    assert names(path) == COMPLETE
    assert len(rows(path)) == 1_009
    assert found.cut_short
    last = max(int(row["ts_ns"]) + int(row["duration_ns"]) for row in rows(path))
    assert found.stopped == last
    assert found.emitted is found.lost is None
    assert found.recorded == {"calls": 1_009, "deliveries": 504, "threads": 0, "total": 1_009}


@pytest.mark.parametrize("when", [0, 0.3, 0.6, 1])
def test_a_conversion_that_is_killed_leaves_nothing_half_written(
    tmp_path: Path, when: float
) -> None:
    path = tmp_path / "trace"
    killed_at(path, 200_000, when)
    if "trace.json" in names(path):  # it was quicker than the signal
        assert names(path) - {"records.spool.partial"} == COMPLETE
    else:
        for name in names(path) & COMPLETE:  # has its final name: so it is whole
            assert (path / name).read_bytes().endswith(b"\n")
        found = recover(path)
        assert names(path) == COMPLETE
        assert (found.cut_short, found.stopped) == (False, 123)
    with (path / "calls.csv").open("rb") as file:
        assert sum(1 for _ in file) == 200_001


def test_killed_between_the_renames_it_is_recovered(tmp_path: Path) -> None:
    directory = begin(tmp_path / "trace")
    (directory.path / "calls.csv").write_text("renamed already")
    (directory.path / "threads.csv.partial").write_text("not yet")
    directory.spool.close()
    recover(directory.path)
    assert names(directory.path) == COMPLETE
    assert len(rows(directory.path)) == 3


def test_nothing_is_recovered_where_nothing_was_cut_short(tmp_path: Path) -> None:
    begin(tmp_path / "trace").finish(info())
    for path in (tmp_path / "trace", tmp_path, tmp_path / "nowhere"):
        assert not is_cut_short(path)
        with pytest.raises(IophaseError, match="nothing to recover"):
            recover(path)


def test_a_cut_short_trace_without_its_spool_is_reported(tmp_path: Path) -> None:
    directory = begin(tmp_path / "trace")
    directory.spool.close()
    directory.spool.path.unlink()
    with pytest.raises(IophaseError, match=r"records\.spool\.partial: cannot be read"):
        recover(directory.path)


# Who may read it


def test_everyone_may_read_a_trace_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        begin(tmp_path / "trace").finish(info())
    finally:
        os.umask(before)
    assert (tmp_path / "trace").stat().st_mode & 0o777 == 0o755
    for file in (tmp_path / "trace").iterdir():
        assert file.stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run the tests with sudo")
def test_a_trace_belongs_to_who_called_sudo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "567")
    path = tmp_path / "parent" / "trace"
    begin(path).finish(info())
    for made in (path.parent, path, *path.iterdir()):
        assert (made.stat().st_uid, made.stat().st_gid) == (1234, 567)
    assert tmp_path.stat().st_uid == 0


def test_a_link_in_the_place_of_a_file_is_not_written_through(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    directory = begin(path)
    target = tmp_path / "precious"
    target.write_text("mine")
    (path / "calls.csv.partial").symlink_to(target)
    directory.finish(info())
    assert target.read_text() == "mine"
    assert not (path / "calls.csv").is_symlink()


# What is not a trace


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(IophaseError, match=r"nowhere: no such directory"):
        read_info(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"not a trace: it has no trace\.json"),
        (b"", r"trace\.json: cut off or damaged"),
        (b'{"schema": 1, "kern', r"trace\.json: cut off or damaged"),
        (b"\xff\xfe\xfd", r"trace\.json: damaged: not text"),
        (b"[1]", r"trace\.json: not a trace of iophase"),
        (b"{}", r"trace\.json: not a trace of iophase"),
        (b'{"schema": 99}', r"schema 99 is unknown \(known: 1\)"),
        (b'{"schema": 1}', r"trace\.json: damaged: keys are missing"),
    ],
)
def test_what_is_not_a_trace_is_reported(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "trace.json").write_bytes(content)
    with pytest.raises(IophaseError, match=message):
        read_info(tmp_path)


def test_everything_in_trace_json_is_read_back() -> None:
    counts: Any = {"calls": 1, "deliveries": 2, "threads": 3, "total": 6}
    full = info(
        stopped=9, targets=[{"pid": 1, "comm": "größe"}], command=["a", "b c"], model="epoll",
        workload={"rate": None}, emitted=counts, recorded=counts, lost=counts, merged=4,
        probes=[{"name": "p", "phase": "copy", "attached": None, "detail": "why"}],
        unclosed=1, resolution_ns={"copy": 30}, cut_short=True,
    )  # fmt: skip
    assert TraceInfo.from_json(full.to_json()) == full


def test_a_key_of_a_later_version_is_ignored() -> None:
    content = json.loads(info().to_json()) | {"invented_later": 1}
    assert TraceInfo.from_json(json.dumps(content)) == info()


def test_what_is_known_while_recording_is_what_a_crash_leaves(tmp_path: Path) -> None:
    directory = begin(tmp_path / "trace")
    directory.update(replace(directory.info, targets=[{"pid": 7, "comm": "server"}]))
    directory.spool.close()
    found = recover(directory.path)
    assert found.targets == [{"pid": 7, "comm": "server"}]
    assert found.cut_short


def test_where_no_trace_can_be_begun_no_directory_is_left(tmp_path: Path) -> None:
    with file_size_limit(10), pytest.raises(IophaseError, match="cannot be written"):
        create(tmp_path / "trace", info(), CALLS)
    with file_size_limit(700), pytest.raises(IophaseError, match="cannot be written"):
        create(tmp_path / "trace", info(command=["x" * 1000]), CALLS)
    assert names(tmp_path) == set()


def test_a_new_file_is_never_one_that_exists(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError):
        newfile.new_file(tmp_path / "file")
