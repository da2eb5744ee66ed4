"""An interval added up: the sums are those of its records, and what lies before it is left out."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.tracer.synthetic import call, delivery, flags, joined, name, socket
from tracer.live.window import Names, Window

SECOND = 1_000_000_000
NOW = 10 * SECOND


def test_the_rows_of_a_process_are_added_up() -> None:
    records = joined(
        call("recvfrom", ts=NOW - 500, pid=5, tid=5, socket=77, bytes=100, copy=200, sleep=300),
        call("recvfrom", ts=NOW - 400, pid=5, tid=6, socket=78, bytes=11, copy=10, overhead=90),
        call("epoll_wait", ts=NOW - SECOND // 2, pid=5, tid=5, sleep=SECOND // 4, check=1000),
        call("recvfrom", ts=NOW - 300, pid=9, tid=9, socket=79, bytes=1, copy=1),
    )
    window = Window(records, NOW, 1.0)
    five, nine = window.by("pid")
    assert (five.key, five.calls, five.bytes) == (5, 3, 111)
    assert five.wait == pytest.approx((SECOND // 4 + 1000 + 300) / SECOND)
    assert five.copy == pytest.approx(210 / SECOND)
    assert (nine.key, nine.calls) == (9, 1)
    assert [group.key for group in window.by("tid")] == [5, 6, 9]
    assert [(group.key, group.pid) for group in window.by("socket")] == [(77, 5), (78, 5), (79, 9)]


def test_a_copy_that_no_probe_saw_is_unknown_and_not_nothing() -> None:
    unseen = flags("COPY_UNKNOWN")
    records = joined(
        call("read", ts=NOW - 500, pid=5, tid=5, socket=77, bytes=9, flags=unseen),
        call("read", ts=NOW - 400, pid=5, tid=5, socket=78, bytes=9, flags=unseen),
        call("read", ts=NOW - 300, pid=5, tid=5, socket=78, bytes=9, copy=SECOND // 10),
        call("epoll_wait", ts=NOW - 200, pid=6, tid=6),
    )
    window = Window(records, NOW, 1.0)
    assert [group.copy for group in window.by("socket")] == [None, pytest.approx(0.1)]
    assert [group.copy for group in window.by("pid")] == [pytest.approx(0.1), 0]


def test_a_sleep_counts_only_as_far_as_it_lies_in_the_interval() -> None:
    long = call("epoll_wait", ts=NOW - 5 * SECOND, pid=5, tid=5, sleep=5 * SECOND)
    (group,) = Window(joined(long), NOW, 1.0).by("pid")
    assert group.wait == pytest.approx(1.0)


def test_quantiles_are_of_deliveries_whose_arrival_is_known() -> None:
    arrivals = [
        delivery(ts=NOW, pid=5, tid=5, socket=77, ready=1000, copied=1000 + waited)
        for waited in range(1, 102)
    ]
    unknown = delivery(ts=NOW, pid=5, tid=5, socket=77, copied=NOW, flags=flags("READY_UNKNOWN"))
    (group,) = Window(joined(*arrivals, unknown), NOW, 1.0).by("socket")
    assert (group.deliveries, group.p50, group.p99, group.longest) == (101, 51, 100, 101)


def test_quantiles_of_few_deliveries_are_those_of_a_report() -> None:
    waits = [1000, 2000, 900_000]
    arrivals = [delivery(ts=NOW, pid=5, tid=5, socket=77, ready=5, copied=5 + w) for w in waits]
    (group,) = Window(joined(*arrivals), NOW, 1.0).by("socket")
    expected = pd.Series(waits).quantile([0.5, 0.99, 1.0])
    assert [group.p50, group.p99, group.longest] == pytest.approx(list(expected))


def test_an_interval_without_records_has_no_rows() -> None:
    window = Window(joined(), NOW, 1.0)
    assert window.by("pid") == window.by("socket") == []


def test_names_and_addresses_are_learnt_from_the_records() -> None:
    names = Names()
    address = (bytes([127, 0, 0, 1]), 80)
    names.learn(joined(name(5, 1, b"web\x1b"), socket(77, 2, 6, local=address, remote=address)))
    assert names.processes == {5: "web\\x1b"}
    assert names.sockets == {77: "127.0.0.1:80"}


def test_of_very_many_names_the_oldest_are_forgotten_but_none_that_is_in_use() -> None:
    names = Names()
    address = (bytes([127, 0, 0, 1]), 80)
    many = 25_000
    names.learn(joined(*(socket(inode, 2, 6, remote=address) for inode in range(1, many + 1))))
    names.forget(joined(call("read", ts=NOW, pid=5, tid=5, socket=7)))
    assert set(names.sockets) == {7, *range(many - 9_999, many + 1)}
    names.learn(joined(*(name(pid, 1, b"web") for pid in range(1, many + 1))))
    names.forget(joined(call("read", ts=NOW, pid=5, tid=5, socket=7)))
    assert set(names.processes) == set(names.threads) == {5, *range(many - 9_999, many + 1)}


def test_a_call_that_is_not_finished_counts_as_time_and_not_as_a_call() -> None:
    asleep = call("epoll_wait", ts=1, pid=5, tid=5, sleep=NOW, flags=flags("UNFINISHED"))
    (group,) = Window(joined(asleep), NOW, 1.0).by("pid")
    assert group.calls == 0
    assert group.wait == pytest.approx(1.0)
