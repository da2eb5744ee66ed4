"""From a spool to CSV files: exact text for known records."""

from __future__ import annotations

import csv
import functools
import socket as sockets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tracer.synthetic import (
    call,
    delivery,
    flags,
    joined,
    name,
    socket,
    thread,
    write_spool,
)
from tests.tracer.test_spool import file_size_limit
from tracer import convert as converting
from tracer.convert import CSV_COLUMNS, Converted, convert
from tracer.errors import IophaseError
from tracer.order import TimeOrder
from tracer.ring import Records

PHASES = ("sleep_ns", "runq_ns", "spin_ns", "check_ns", "copy_ns", "overhead_ns")


class Files:
    """The CSV files of some records."""

    def __init__(self, directory: Path, records: Sequence[Records], **options: Any) -> None:
        self.paths = {file: directory / file for file in CSV_COLUMNS}
        self.spool = write_spool(directory / "spool", records)
        self.done: Converted = convert(self.spool, self.paths, **options)

    def text(self, file: str) -> list[str]:
        """Return the lines after the header."""
        header, *lines = self.paths[file].read_text().split("\n")[:-1]
        assert header == ",".join(CSV_COLUMNS[file])
        return lines

    def rows(self, file: str) -> list[dict[str, str]]:
        with self.paths[file].open(newline="") as opened:
            return list(csv.DictReader(opened))


def test_a_receive_becomes_one_exact_row(tmp_path: Path) -> None:
    record = call(
        "recvfrom", ts=1_000, pid=10, tid=11, cpu=3, fd=7, socket=4711, result=64, bytes=64,
        sleep=50_000_000, runq=2_000, check=0, copy=300, overhead=700,
    )  # fmt: skip
    files = Files(tmp_path, [name(11, 0, b"server"), record])
    assert files.text("calls.csv") == [
        "1000,50003000,3,10,11,server,process,recvfrom,7,4711,,,64,64,50000000,2000,0,0,300,700,,"
    ]
    assert files.text("deliveries.csv") == files.text("threads.csv") == []


def test_a_wait_becomes_one_exact_row(tmp_path: Path) -> None:
    record = call(
        "epoll_wait", ts=5, pid=10, tid=10, fd=4, result=12, sleep=9, runq=8, spin=7, check=6,
        overhead=0,
    )  # fmt: skip
    files = Files(tmp_path, [record])
    assert files.text("calls.csv") == ["5,30,0,10,10,,process,epoll_wait,4,,,12,12,,9,8,7,6,0,0,,"]


@pytest.mark.parametrize("poll", ["select", "pselect6", "poll", "ppoll"])
def test_only_select_and_poll_have_nfds(tmp_path: Path, poll: str) -> None:
    records = [call(poll, ts=1, nfds=0), call(poll, ts=2, nfds=9), call("epoll_wait", ts=3, nfds=9)]
    rows = Files(tmp_path, records).rows("calls.csv")
    assert [row["nfds"] for row in rows] == ["0", "9", ""]
    assert [row["fd"] for row in rows] == ["", "", ""]


def test_ready_is_known_for_waits_that_did_not_fail(tmp_path: Path) -> None:
    records = [
        call("poll", ts=1, result=2),
        call("poll", ts=2, result=0),
        call("poll", ts=3, result=-4),
        call("recvfrom", ts=4, result=64),
        call("accept4", ts=5, result=8),
    ]
    rows = Files(tmp_path, records).rows("calls.csv")
    assert [row["ready"] for row in rows] == ["2", "0", "", "", ""]
    assert [row["result"] for row in rows] == ["2", "0", "-4", "64", "8"]


def test_bytes_are_known_for_receives_only(tmp_path: Path) -> None:
    records = [
        call("recvfrom", ts=1, bytes=64, result=64),
        call("recvfrom", ts=2, result=-11),
        call("recvmmsg", ts=3, result=2, flags=flags("BYTES_UNKNOWN")),
        call("epoll_wait", ts=4, result=64),
        call("accept", ts=5, result=9),
    ]
    rows = Files(tmp_path, records).rows("calls.csv")
    assert [row["bytes"] for row in rows] == ["64", "0", "", "", ""]


def test_a_call_that_was_still_running_has_no_result_ready_or_bytes(tmp_path: Path) -> None:
    unfinished = flags("UNFINISHED")
    records = [call("poll", ts=1, flags=unfinished), call("read", ts=2, flags=unfinished)]
    for row in Files(tmp_path, records).rows("calls.csv"):
        assert (row["result"], row["ready"], row["bytes"]) == ("", "", "")


def test_an_unknown_copy_is_empty_and_the_phases_still_add_up(tmp_path: Path) -> None:
    record = call(ts=1, sleep=10, copy=5, overhead=7, flags=flags("COPY_UNKNOWN"))
    (row,) = Files(tmp_path, [record]).rows("calls.csv")
    assert row["copy_ns"] == ""
    assert row["overhead_ns"] == "12"
    assert row["duration_ns"] == "22"


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.integers(0, 2**40) for _ in PHASES], st.integers(0, 2**62), st.booleans()),
        min_size=1,
        max_size=30,
    )
)
def test_the_phases_of_every_row_add_up_to_its_duration(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, ...]]
) -> None:
    unknown = flags("COPY_UNKNOWN")
    records = [
        call(
            ts=ts, sleep=sleep, runq=runq, spin=spin, check=check, copy=copy, overhead=overhead,
            flags=unknown if copy_unknown else 0,
        )
        for sleep, runq, spin, check, copy, overhead, ts, copy_unknown in rows
    ]  # fmt: skip
    files = Files(tmp_path_factory.mktemp("trace"), records)
    written = files.rows("calls.csv")
    assert files.done.unclosed_calls == 0
    assert [int(row["ts_ns"]) for row in written] == sorted(row[6] for row in rows)
    assert sorted(int(row["duration_ns"]) for row in written) == sorted(
        sum(row[:6]) for row in rows
    )
    for row in written:
        assert sum(int(row[phase] or 0) for phase in PHASES) == int(row["duration_ns"])


def test_what_only_function_probes_see_is_empty_without_them(tmp_path: Path) -> None:
    records = [
        call("poll", ts=1, check=9, check_copy=5, function=70, flags=flags("CHECK_SPLIT")),
        call("poll", ts=2, check=9, check_copy=0, flags=flags("CHECK_SPLIT")),
        call("poll", ts=3, check=9, check_copy=5),
    ]
    rows = Files(tmp_path, records).rows("calls.csv")
    assert [row["check_copy_ns"] for row in rows] == ["5", "0", ""]
    assert [row["function_ns"] for row in rows] == ["70", "", ""]


def test_phases_that_exceed_the_duration_are_counted_and_not_hidden(tmp_path: Path) -> None:
    files = Files(tmp_path, [call(ts=1, duration=10, sleep=11), call(ts=2, sleep=1)])
    assert files.done.unclosed_calls == 1
    assert files.rows("calls.csv")[0]["overhead_ns"] == "-1"


def test_a_ledger_that_does_not_add_up_is_counted(tmp_path: Path) -> None:
    records = [thread(tid=1, user=5), thread(tid=2, user=5, wall=6), thread(tid=3, sleep=5, wall=4)]
    assert Files(tmp_path, records).done.unclosed_threads == 2


def test_calls_are_in_the_order_of_their_beginning(tmp_path: Path) -> None:
    ended = [call(ts=ts) for ts in (30, 10, 40, 20, 10)]
    rows = Files(tmp_path, ended).rows("calls.csv")
    assert [row["ts_ns"] for row in rows] == ["10", "10", "20", "30", "40"]


def test_a_delivery_in_its_call_becomes_one_exact_row(tmp_path: Path) -> None:
    record = call(
        "recvfrom", ts=1_000, pid=10, tid=11, fd=7, socket=4711, bytes=64, waker="softirq",
        ready=900, noticed=950, copied=1_050, delivered=64, flags=flags("DELIVERED"),
    )  # fmt: skip
    files = Files(tmp_path, [record])
    assert files.text("deliveries.csv") == ["4711,7,10,11,900,950,1050,64,,softirq,,"]
    assert files.done.calls == files.done.deliveries == 1


def test_further_deliveries_of_a_call_stand_beside_it(tmp_path: Path) -> None:
    common: dict[str, Any] = {"ts": 50, "pid": 1, "tid": 1, "fd": 3, "socket": 9}
    records = [
        call(**common, ready=10, noticed=20, copied=60, delivered=5, flags=flags("DELIVERED")),
        delivery(**common, ready=11, noticed=21, copied=60, delivered=6, waker="ksoftirqd"),
        call(ts=70),
        delivery(**common | {"ts": 40}, ready=1, noticed=2, copied=45, delivered=7, waker="self"),
    ]
    files = Files(tmp_path, records)
    assert files.text("deliveries.csv") == [
        "9,3,1,1,1,2,45,7,,self,,",
        "9,3,1,1,10,20,60,5,,process,,",
        "9,3,1,1,11,21,60,6,,ksoftirqd,,",
    ]
    assert (files.done.calls, files.done.deliveries, files.done.records) == (2, 3, 4)


def test_what_is_unknown_of_a_delivery_is_empty(tmp_path: Path) -> None:
    records = [
        delivery(ts=1, ready=5, copied=9, notify=77, flags=flags("READY_UNKNOWN")),
        delivery(ts=2, ready=5, noticed=7, copied=9, notify=77, flags=flags("NOTIFY_KNOWN")),
        delivery(ts=3, ready=5, copied=9, delivered=3, flags=flags("BYTES_UNKNOWN")),
    ]
    rows = Files(tmp_path, records).rows("deliveries.csv")
    assert [row["ready_ns"] for row in rows] == ["", "5", "5"]
    assert [row["noticed_ns"] for row in rows] == ["", "7", ""]
    assert [row["waker_context"] for row in rows] == ["", "softirq", "softirq"]
    assert [row["notify_ns"] for row in rows] == ["", "77", ""]
    assert [row["bytes"] for row in rows] == ["0", "0", ""]
    assert {row["socket"] for row in rows} == {""}


def test_how_the_receiver_was_told_is_known_where_it_was_measured(tmp_path: Path) -> None:
    known = flags("NOTIFY_KNOWN")
    records = [
        delivery(ts=1, notify=77, callback=66, notifier=1, flags=known),
        delivery(ts=2, notify=77, callback=66, notifier=2, flags=known),
        delivery(ts=3, notify=0, callback=0, notifier=0, flags=known),
        delivery(ts=4, notify=77, callback=66, notifier=1),
    ]
    rows = Files(tmp_path, records).rows("deliveries.csv")
    assert [row["notifier"] for row in rows] == ["ep_poll_callback", "pollwake", "none", ""]
    assert [row["callback_ns"] for row in rows] == ["66", "66", "0", ""]
    assert [row["notify_ns"] for row in rows] == ["77", "77", "0", ""]


def test_a_thread_becomes_one_exact_row(tmp_path: Path) -> None:
    record = thread(
        ts=100, pid=10, tid=12, role=1,
        user=1, sleep=2, runq=3, spin=4, check=5, copy=6, overhead=7,
        other_calls=8, off_cpu_elsewhere=9, calls=10, bytes=11, voluntary_switches=12,
        involuntary_switches=13, epoll_level=14, epoll_edge=15, epoll_oneshot=16, sigio_sockets=17,
    )  # fmt: skip
    files = Files(tmp_path, [record, name(12, 100, b"worker")], model="threads")
    assert files.text("threads.csv") == [
        "10,12,worker,thread,threads,45,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17"
    ]


def test_threads_are_in_the_order_of_their_beginning_and_the_first_is_main(tmp_path: Path) -> None:
    rows = Files(tmp_path, [thread(ts=2, tid=2, role=1), thread(ts=1, tid=1)]).rows("threads.csv")
    assert [(row["tid"], row["role"], row["model"]) for row in rows] == [
        ("1", "main", ""),
        ("2", "thread", ""),
    ]


def test_sockets_have_printable_addresses(tmp_path: Path) -> None:
    home4, home6 = sockets.inet_aton("127.0.0.1"), sockets.inet_pton(sockets.AF_INET6, "::1")
    far6 = sockets.inet_pton(sockets.AF_INET6, "2001:db8::7")
    mapped = sockets.inet_pton(sockets.AF_INET6, "::ffff:10.0.0.7")
    inet, inet6 = sockets.AF_INET, sockets.AF_INET6
    records = [
        socket(1, inet, sockets.IPPROTO_TCP, (home4, 8080), (bytes([10, 20, 255, 0]), 65535)),
        socket(2, inet6, sockets.IPPROTO_UDP, (home6, 80), (far6, 1)),
        socket(3, inet, sockets.IPPROTO_TCP, (b"", 8080)),
        socket(4, sockets.AF_UNIX, 0, (home4, 80)),
        socket(5, inet, sockets.IPPROTO_UDP),
        socket(6, 99, 200),
        socket(7, inet6, sockets.IPPROTO_TCP, (home6, 80), (mapped, 999)),
    ]
    assert Files(tmp_path, records).text("sockets.csv") == [
        "1,inet,tcp,127.0.0.1:8080,10.20.255.0:65535",
        "2,inet6,udp,[::1]:80,[2001:db8::7]:1",
        "3,inet,tcp,0.0.0.0:8080,",
        "4,unix,,,",
        "5,inet,udp,,",
        "6,99,200,,",
        "7,inet6,tcp,[::1]:80,[::ffff:10.0.0.7]:999",
    ]


def test_a_call_is_named_after_what_its_thread_was_called_then(tmp_path: Path) -> None:
    records = [
        name(1, 10, b"python3"),
        name(1, 20, b"server"),
        name(2, 15, b"worker"),
        *(call(tid=1, ts=ts) for ts in (5, 10, 19, 20, 21)),
        call(tid=2, ts=14),
        call(tid=3, ts=30),
        thread(tid=1, ts=10, wall=15, user=15),
    ]
    files = Files(tmp_path, records)
    named = {(row["tid"], row["ts_ns"]): row["comm"] for row in files.rows("calls.csv")}
    assert named == {
        ("1", "5"): "python3",
        ("1", "10"): "python3",
        ("1", "19"): "python3",
        ("1", "20"): "server",
        ("1", "21"): "server",
        ("2", "14"): "worker",
        ("3", "30"): "",
    }
    assert files.rows("threads.csv")[0]["comm"] == "server"


threads_and_times = st.tuples(st.integers(1, 4), st.integers(0, 30))


@settings(max_examples=60, deadline=None)
@given(st.lists(threads_and_times, unique=True), st.lists(threads_and_times, min_size=1))
def test_names_are_those_of_a_search_one_by_one(
    tmp_path_factory: pytest.TempPathFactory,
    names: list[tuple[int, int]],
    calls: list[tuple[int, int]],
) -> None:
    named = [name(tid, ts, f"t{tid}-{ts}".encode()) for tid, ts in names]
    called = [call(tid=tid, ts=ts) for tid, ts in calls]
    files = Files(tmp_path_factory.mktemp("trace"), [*called, *named])
    for row in files.rows("calls.csv"):
        tid, ts = int(row["tid"]), int(row["ts_ns"])
        own = sorted(when for who, when in names if who == tid)
        before = [when for when in own if when <= ts]
        expected = before[-1:] or own[:1]
        assert row["comm"] == (f"t{tid}-{expected[0]}" if expected else "")


@pytest.mark.parametrize(
    ("comm", "field", "value"),
    [
        (b"redis-server", "redis-server", "redis-server"),
        (b"a b", "a b", "a b"),
        (b"a,b", '"a,b"', "a,b"),
        (b'say "hi"', '"say ""hi"""', 'say "hi"'),
        (b"kworker/0:1", "kworker/0:1", "kworker/0:1"),
        (b"two\nlines", "two\\nlines", "two\\nlines"),
        (b"\x1b[31mred", "\\x1b[31mred", "\\x1b[31mred"),
        (b"\x01,\x02", '"\\x01,\\x02"', "\\x01,\\x02"),
        ("größe".encode(), "größe", "größe"),
        (b"\xff\xfe", "\\xff\\xfe", "\\xff\\xfe"),
    ],
)
def test_any_name_is_one_printable_field_that_is_quoted_only_if_it_must_be(
    tmp_path: Path, comm: bytes, field: str, value: str
) -> None:
    files = Files(tmp_path, [name(1, 0, comm), call(tid=1, ts=1)])
    assert files.text("calls.csv")[0].startswith(f"1,0,0,0,1,{field},process,")
    assert files.rows("calls.csv")[0]["comm"] == value


def test_chunks_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    records = joined(*(call(tid=1 + n % 3, ts=n, sleep=n) for n in range(1_009)))
    records["flags"] = flags("DELIVERED")
    records = random.permutation(records)
    names = [name(tid, 500, f"n{tid}".encode()) for tid in (1, 2, 3)]
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    whole.mkdir()
    pieces.mkdir()
    expected = Files(whole, [records, *names])
    monkeypatch.setattr(converting, "TimeOrder", functools.partial(TimeOrder, chunk=13))
    found = Files(pieces, [records, *names])
    assert found.done == expected.done
    for file in CSV_COLUMNS:
        assert found.paths[file].read_bytes() == expected.paths[file].read_bytes()
    assert len(found.text("calls.csv")) == 1_009


def test_an_empty_spool_gives_files_with_headers_alone(tmp_path: Path) -> None:
    files = Files(tmp_path, [])
    assert files.done == Converted()
    assert all(files.text(file) == [] for file in CSV_COLUMNS)


def test_the_span_of_a_trace_is_known(tmp_path: Path) -> None:
    records = [thread(ts=5, user=100), call(ts=3, sleep=10), call(ts=90, sleep=20)]
    done = Files(tmp_path, records).done
    assert (done.first_ns, done.last_ns) == (3, 110)


def test_records_of_no_known_kind_are_left_out_and_counted(tmp_path: Path) -> None:
    blank = np.zeros_like(call())
    files = Files(tmp_path, [call(ts=1), blank, blank])
    assert files.done.unreadable == 2
    assert len(files.text("calls.csv")) == 1


def test_progress_rises_to_the_total(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converting, "TimeOrder", functools.partial(TimeOrder, chunk=10))
    seen: list[tuple[int, int]] = []
    records = [*(call(ts=n) for n in range(95)), name(1, 0, b"a"), thread(ts=0), delivery(ts=1)]
    Files(tmp_path, records, progress=lambda done, total: seen.append((done, total)))
    assert {total for _, total in seen} == {98}
    done = [count for count, _ in seen]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 98)
    assert len(done) > 5


class SomeError(Exception):
    """Raised in the middle of a conversion."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, SomeError])
def test_an_interrupted_conversion_leaves_the_spool_and_no_file(
    tmp_path: Path, error: type[BaseException]
) -> None:
    def interrupt(done: int, total: int) -> None:
        if done:
            raise error

    with pytest.raises(error):
        Files(tmp_path, [call(ts=1), call(ts=2)], progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["spool"]


@pytest.mark.parametrize("limit", [0, 50, 20_000])
def test_a_full_disk_is_reported_and_leaves_the_spool_and_no_file(
    tmp_path: Path, limit: int
) -> None:
    spool = write_spool(tmp_path / "spool", [call(ts=n) for n in range(1_000)])
    paths = {file: tmp_path / file for file in CSV_COLUMNS}
    with file_size_limit(limit), pytest.raises(IophaseError, match=r"\.csv: cannot be written"):
        convert(spool, paths)
    assert [path.name for path in tmp_path.iterdir()] == ["spool"]
    assert convert(spool, paths).calls == 1_000


def test_a_file_that_is_in_the_way_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "threads.csv").write_text("mine")
    with pytest.raises(IophaseError, match=r"threads\.csv: cannot be written: File exists"):
        Files(tmp_path, [call(ts=1)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spool", "threads.csv"]
    assert (tmp_path / "threads.csv").read_text() == "mine"
