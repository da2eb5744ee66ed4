"""What ``top`` draws, to the letter, on terminals of 80 and of 120 columns."""

from __future__ import annotations

import io
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from tracer.live.view import View, draw
from tracer.live.window import Group, Names

MODELS = {
    7: "epoll edge-triggered",
    9: "epoll level-triggered + blocking",
}


def state(lost: int = 0, refused: int = 0, threads: int = 0, sockets: int = 0) -> Any:
    names = Names()
    names.processes = {7: "nginx", 9: "a-long-process"}
    names.threads = {7: "nginx", 9: "main", 10: "worker"}
    names.sockets = {70: "10.0.0.2:41234", 71: "at 127.0.0.1:8080"}
    return SimpleNamespace(
        names=names,
        models={"pid": MODELS, "tid": {7: MODELS[7], 9: "blocking", 10: "epoll level-triggered"}},
        history={("pid", 7): deque([0.0, 50.0, 100.0]), ("socket", 70): deque([4.0])},
        lost=lost,
        emitted=123_456,
        threads_untraced=threads,
        sockets_untraced=sockets,
        cpu_share=0.043,
        following=SimpleNamespace(refused=["sshd"] * refused),
    )


def group(key: int, pid: int, calls: float, longest: float | None = None, **more: Any) -> Group:
    times = {"p50": longest and longest / 9, "p99": longest and longest / 2, "longest": longest}
    figures = {"bytes": 64 * calls, "wait": 0.5, "copy": 0.02, "cpu": 0.1, "deliveries": 1}
    return Group(key=key, pid=pid, calls=calls, **(figures | times | more))


PROCESSES = [
    group(9, 9, 12.0, wait=1.999, copy=None),
    group(7, 7, 21_000.0, 4_100_000.0),
]
THREADS = [group(9, 9, 0.0), group(7, 7, 21_000.0, 4_100_000.0), group(10, 9, 12.0, 900.0)]
SOCKETS = [group(71, 9, 1.0), group(70, 7, 21_000.0, 4_100_000.0), group(72, 7, 3.0, 5e6)]


def picture(groups: list[Group], view: View, columns: int, lines: int = 24, **more: int) -> str:
    out = io.StringIO()
    console = Console(width=columns, file=out, highlight=False)
    console.print(draw(state(**more), groups, view, 61.4, (columns, lines)))
    text = out.getvalue()
    assert all(len(line) <= columns for line in text.splitlines())
    return "\n".join(line.rstrip() for line in text.splitlines())


PROCESSES_80 = """\
iophase top  61 s  2 processes by calls/s
lost 0 of 123,456 records, own cost 4.3% of a CPU
process          model          calls/s   recv/s wait% copy%     p99 longest
7 nginx          epoll edge      21,000 1.28 MiB  50.0   2.0 2.05 ms 4.10 ms  ▄█
9 a-long-process epoll level +…      12    768 B 199.9     -       -       -
p/t/c view  n/b/w/y/l sort  space pause  q quit"""

PROCESSES_120 = """\
iophase top  61 s  2 processes by calls/s
lost 0 of 123,456 records, own cost 4.3% of a CPU
process          model                  calls/s   recv/s wait% copy%     p99 longest
7 nginx          epoll edge              21,000 1.28 MiB  50.0   2.0 2.05 ms 4.10 ms  ▄█
9 a-long-process epoll level + blocking      12    768 B 199.9     -       -       -
p/t/c view  n/b/w/y/l sort  space pause  q quit"""

THREADS_80 = """\
iophase top  61 s  3 threads by wait  PAUSED
LOST 12 of 123,456 records, own cost 4.3% of a CPU
thread    model       calls/s   recv/s wait% copy%     p99 longest
9 main    blocking          0      0 B  50.0   2.0       -       -
7 nginx   epoll edge   21,000 1.28 MiB  50.0   2.0 2.05 ms 4.10 ms
10 worker epoll level      12    768 B  50.0   2.0  450 ns  900 ns
p/t/c view  n/b/w/y/l sort  space pause  q quit"""

SOCKETS_80 = """\
iophase top  61 s  3 connections by longest
lost 0 of 123,456 records, own cost 4.3% of a CPU
remote            calls/s   recv/s wait% copy%    p50     p99 longest
socket 72               3    192 B  50.0   2.0 556 us 2.50 ms 5.00 ms
10.0.0.2:41234     21,000 1.28 MiB  50.0   2.0 456 us 2.05 ms 4.10 ms █
at 127.0.0.1:8080       1     64 B  50.0   2.0      -       -       -
p/t/c view  n/b/w/y/l sort  space pause  q quit"""


@pytest.mark.parametrize(("columns", "expected"), [(80, PROCESSES_80), (120, PROCESSES_120)])
def test_processes(columns: int, expected: str) -> None:
    assert picture(PROCESSES, View(), columns) == expected


def test_threads_in_a_pause_with_losses() -> None:
    view = View().pressed("t").pressed("w").pressed(" ")
    assert picture(THREADS, view, 80, lost=12) == THREADS_80


def test_processes_that_are_not_traced_are_counted_in_view() -> None:
    header = picture(PROCESSES, View(), 80, refused=2).splitlines()[1]
    assert header == "lost 0 of 123,456 records, own cost 4.3% of a CPU, 2 not traced"


def test_what_found_no_room_is_in_view() -> None:
    lines = picture(PROCESSES, View(), 80, lines=8, threads=1234, sockets=5).splitlines()
    assert len(lines) <= 8
    assert lines[2].startswith("NO ROOM for 1,234 threads and deliveries of some sockets: too many")


def test_connections_are_those_first_whose_data_waited_longest() -> None:
    assert picture(SOCKETS, View().pressed("c"), 80) == SOCKETS_80


def test_a_small_terminal_shows_the_first_lines_and_the_keys() -> None:
    drawn = picture(SOCKETS, View().pressed("c"), 80, lines=8).splitlines()
    assert [line.split()[0] for line in drawn] == [
        "iophase", "lost", "remote", "socket", "10.0.0.2:41234", "p/t/c"
    ]  # fmt: skip


def test_keys_choose_view_and_order_and_others_nothing() -> None:
    view = View()
    assert view.pressed("x") == view.pressed("Q") == view
    assert view.pressed("c").sort == "l" and view.pressed("c").pressed("p").sort == "n"
    assert [view.pressed(key).sort for key in "nbwyl"] == list("nbwyl")
    assert view.pressed(" ").paused and not view.pressed(" ").pressed(" ").paused
