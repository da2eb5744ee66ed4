"""Processes that begin to be traced while others are: what was before is not theirs."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from analysis.load import load
from probes.program import Program
from tests.live.recording import assert_closed, record, recording
from tests.live.target import Target, asleep, numbered, tcp_pair
from tracer.errors import IophaseError

pytestmark = pytest.mark.live

TIMES = 13
SIZE = 61
SHORT_LIVED = 101


def test_what_was_taken_before_a_thread_was_traced_is_not_delivered_by_it(
    program: Program, tmp_path: Path
) -> None:
    """Another process has the socket open, too, so its arrivals are looked at from the start."""
    left, right = tcp_pair()

    def receive() -> None:
        for _ in range(2 * TIMES):
            right.recv(SIZE)
            right.send(b".")

    def talk() -> None:
        for _ in range(TIMES):
            left.send(b"x" * SIZE)
            left.recv(1)

    with left, right, Target(lambda: None) as idle, Target(receive) as server:
        with recording(program, tmp_path / "trace") as session:
            session.follow([idle.pid])
            server.go()
            talk()
            asleep(server.pid)
            session.follow([server.pid])
            began = time.monotonic_ns()
            talk()
        trace = load(tmp_path / "trace")
    assert trace.deliveries["bytes"].tolist() == [SIZE] * TIMES
    assert (trace.deliveries["ready_ns"] > began).all()
    assert_closed(trace)


def test_threads_that_live_for_less_than_a_millisecond_are_all_traced(
    program: Program, tmp_path: Path
) -> None:
    left, right = tcp_pair()

    def serve() -> None:
        for _ in range(SHORT_LIVED):
            left.send(b"x" * SIZE)
            thread = threading.Thread(target=right.recv, args=(SIZE,))
            thread.start()
            thread.join()

    with left, right:
        trace, _ = record(program, tmp_path / "trace", serve)
    short = trace.threads[trace.threads["role"] == "thread"]
    assert short["bytes"].tolist() == [SIZE] * SHORT_LIVED
    assert (short["wall_ns"] < 1_000_000).any()  # on a busy machine some wait longer for a CPU
    assert_closed(trace)


def test_a_process_that_has_ended_meanwhile_is_refused_and_leaves_nothing(
    program: Program, tmp_path: Path
) -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    with (
        pytest.raises(IophaseError, match=f"process {ended.pid}: there is none"),
        recording(program, tmp_path / "trace") as session,
    ):
        session.follow([ended.pid])
    assert not (tmp_path / "trace").exists()
    assert "drain" not in {thread.name for thread in threading.enumerate()}


def test_a_number_that_is_used_again_is_another_process(program: Program, tmp_path: Path) -> None:
    """Traced only when it is picked up, as one that matches would be."""
    left, right = tcp_pair()

    def receive(first: bytes) -> None:
        left.send(first * SIZE)
        right.recv(SIZE)

    ready, go = os.pipe()

    def when_let_go() -> None:
        os.read(ready, 1)
        receive(b"3")

    with (
        left,
        right,
        Target(lambda: receive(b"1")) as target,
        Target(lambda: numbered(target.pid, lambda: receive(b"2"))) as unseen,
        Target(lambda: numbered(target.pid, when_let_go)) as seen,
    ):
        with recording(program, tmp_path / "trace") as session:
            session.follow([target.pid])
            target.go()
            target.result()
            assert not session.alive()
            unseen.go()
            unseen.result()
            seen.go()
            while not Path(f"/proc/{target.pid}").exists():
                time.sleep(0.001)
            asleep(target.pid)
            session.pick_up([target.pid])
            session.pick_up([target.pid])
            os.write(go, b"\n")
            seen.result()
        trace = load(tmp_path / "trace")
    assert [one["pid"] for one in trace.meta["targets"]] == [target.pid] * 2
    assert trace.threads["tid"].tolist() == [target.pid] * 2
    assert trace.threads["bytes"].tolist() == [SIZE] * 2
    assert trace.threads["calls"].sum() == len(trace.calls)
    os.close(ready)
    os.close(go)
