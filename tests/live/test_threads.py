"""Who is traced, and whose time it was: forks, threads, execs, and the scheduler's own account."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from analysis.load import load
from probes.program import Program
from tests.live.recording import assert_closed, record, recording, total
from tests.live.target import Target, asleep, tcp_pair

pytestmark = pytest.mark.live

TIMES = 13
SIZE = 61
CHILDREN = 5
SHORT_LIVED = 101
SWITCH_NS = 10_000
"""Of a switch, on a busy virtual machine; measured 3 to 13."""


def not_the_threads_ns() -> int:
    """Return the time that interrupts and other virtual machines took: in no thread's schedstat."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    interrupts, softirqs, steal = fields[5:8]
    return (interrupts + softirqs + steal) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


def feed(ends: list[socket.socket]) -> None:
    for end in ends:
        for _ in range(TIMES):
            end.send(b"x" * SIZE)


def receive_all(end: socket.socket) -> None:
    left = TIMES * SIZE
    while left:
        left -= len(end.recv(min(SIZE, left), socket.MSG_WAITALL))


def test_processes_that_the_target_forks_are_traced_from_their_beginning(
    program: Program, tmp_path: Path
) -> None:
    pairs = [tcp_pair() for _ in range(CHILDREN)]

    def server() -> list[int]:
        children = []
        for _, end in pairs:
            child = os.fork()
            if child == 0:
                receive_all(end)
                os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
        return children

    trace, children = record(
        program, tmp_path / "trace", server, lambda target: feed([left for left, _ in pairs])
    )
    threads = trace.threads.set_index("pid")
    assert set(threads.index) >= set(children)
    for child in children:
        assert threads.loc[child, "calls"] == TIMES
        assert threads.loc[child, "bytes"] == TIMES * SIZE
        assert threads.loc[child, "role"] == "main"
    assert len(trace.threads) == CHILDREN + 1
    assert_closed(trace)


def test_threads_that_are_born_and_end_while_traced_have_their_ledgers(
    program: Program, tmp_path: Path
) -> None:
    left, right = tcp_pair()

    def server() -> int:
        for _ in range(SHORT_LIVED):
            thread = threading.Thread(target=right.recv, args=(SIZE,))
            thread.start()
            thread.join()
        return SHORT_LIVED

    def send(target: Any) -> None:
        for _ in range(SHORT_LIVED):
            left.send(b"x" * SIZE)
            time.sleep(0.001)

    trace, _ = record(program, tmp_path / "trace", server, send)
    short = trace.threads[trace.threads["role"] == "thread"]
    assert len(short) == SHORT_LIVED
    assert (short["calls"] >= 0).all()
    assert total(short["bytes"]) == SHORT_LIVED * SIZE == total(trace.calls["bytes"])
    assert_closed(trace)


def test_a_program_that_is_executed_is_traced_under_its_new_name(
    program: Program, tmp_path: Path
) -> None:
    left, right = tcp_pair()

    def become_cat() -> None:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(right.fileno(), 0)
        os.dup2(quiet, 1)
        os.execvp("cat", ["cat"])

    path = tmp_path / "trace"
    with Target(become_cat) as target, recording(program, path) as session:
        session.follow([target.pid])
        target.go()
        for _ in range(TIMES):
            left.send(b"x" * SIZE)
            time.sleep(0.005)
        left.shutdown(socket.SHUT_WR)
        os.waitid(os.P_PID, target.pid, os.WEXITED | os.WNOWAIT)
        session.stop()
    trace = load(path)
    rows = trace.calls
    assert set(rows["call"]) == {"read"}
    assert set(rows["comm"]) == {"cat"}
    assert total(rows["bytes"]) == TIMES * SIZE
    assert rows["result"].iloc[-1] == 0
    assert_closed(trace)


def test_other_processes_are_not_traced(program: Program, tmp_path: Path) -> None:
    left, right = tcp_pair()

    def receive() -> None:
        receive_all(right)

    with Target(receive) as bystander:
        bystander.go()
        trace, _ = record(
            program, tmp_path / "trace", lambda: time.sleep(0.1), lambda _: feed([left])
        )
        bystander.result()
    assert len(trace.calls) == 0
    assert len(trace.threads) == 1
    assert_closed(trace)


def paused_ns() -> int:
    """Pause, and return for how long it was."""
    began = time.monotonic_ns()
    time.sleep(0.05)
    return time.monotonic_ns() - began


def test_a_call_under_way_when_tracing_begins_or_ends_is_recorded(
    program: Program, tmp_path: Path
) -> None:
    left, right = tcp_pair()

    def receive_twice() -> None:
        right.recv(SIZE)
        right.send(b".")
        right.recv(SIZE)

    path = tmp_path / "trace"
    with Target(receive_twice) as target:
        target.go()
        asleep(target.pid)
        with recording(program, path) as session:
            began = time.monotonic_ns()
            session.follow([target.pid])
            pauses = [paused_ns()]
            left.send(b"x" * SIZE)
            left.recv(1)
            asleep(target.pid)
            pauses.append(paused_ns())
            session.stop()
            ended = time.monotonic_ns()
    trace = load(path)
    calls = trace.calls
    assert calls["call"].tolist() == ["recvfrom", "recvfrom"]
    assert began < calls["ts_ns"][0] < ended
    assert calls["result"][0] == SIZE
    assert calls["result"].isna().tolist() == [False, True]
    assert calls["socket"].nunique() == 1
    assert (calls["sleep_ns"] >= pauses).all()
    assert (calls["ts_ns"] + calls["duration_ns"] < ended).all()
    assert_closed(trace)


def test_the_ledger_has_the_cpu_time_that_the_scheduler_counts(
    program: Program, tmp_path: Path
) -> None:
    left, right = tcp_pair()

    def cpu_now() -> int:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[0])

    def work() -> int:
        before = cpu_now()
        end = time.monotonic() + 1.0
        poll = select.poll()
        poll.register(right, select.POLLIN)
        while time.monotonic() < end:
            if poll.poll(1):
                right.recv(4096)
            sum(range(200_000))
        return cpu_now() - before

    def send(target: Any) -> None:
        for _ in range(300):
            left.send(b"x" * 4096)
            time.sleep(0.003)

    path = tmp_path / "trace"
    before = not_the_threads_ns()
    with Target(work) as target, recording(program, path) as session:
        session.follow([target.pid])
        target.go()
        send(target)
        counted = target.result()
    stolen = not_the_threads_ns() - before
    whole = (target.usage.ru_utime + target.usage.ru_stime) * 1e9
    trace = load(path)
    parts = ["user_ns", "spin_ns", "check_ns", "copy_ns", "overhead_ns", "other_calls_ns"]
    ledger = sum(total(trace.threads[part]) for part in parts)
    # The scheduler charges a thread for a part of each switch to it, of which the tracepoint that
    # comes later cannot know; the ledger begins before the first look and ends after the last, but
    # within the life of the process.
    switches = total(trace.threads["voluntary_switches"])
    assert 0.97 * counted - SWITCH_NS * switches < ledger
    assert ledger < 1.03 * whole + stolen
    assert_closed(trace)


def switches(pid: int | str) -> tuple[int, int]:
    """Return the voluntary and the involuntary switches of a process so far (proc(5), status)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    voluntary, involuntary = (int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return voluntary, involuntary


def test_switches_are_those_that_the_kernel_counts(program: Program, tmp_path: Path) -> None:
    left, right = tcp_pair()

    def receive() -> tuple[int, int]:
        receive_all(right)
        for _ in range(TIMES):
            time.sleep(0.001)
        return switches("self")

    with Target(receive) as target:
        asleep(target.pid)
        before = switches(target.pid)
        with recording(program, tmp_path / "trace") as session:
            session.follow([target.pid])
            target.go()
            for _ in range(TIMES):
                left.send(b"x" * SIZE)
                time.sleep(0.002)
            late = target.result()  # after it there is only the way to its end
    thread = load(tmp_path / "trace").threads.iloc[0]
    ended = (target.usage.ru_nvcsw, target.usage.ru_nivcsw)
    counted = (thread["voluntary_switches"], thread["involuntary_switches"])
    assert counted[0] >= TIMES
    for then, found, least, most in zip(before, counted, late, ended, strict=True):
        assert least - then <= found <= most - then
