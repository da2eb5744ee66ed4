"""A ring that is much too small: what is lost is counted exactly, and said."""

from __future__ import annotations

import contextlib
import mmap
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.load import Trace
from probes.program import Program
from tests.live.conftest import BACKEND
from tests.live.recording import PHASES, record, total
from tests.live.target import tcp_pair
from tracer.session import attached_program

pytestmark = pytest.mark.live

CALLS = 20_011


@pytest.fixture(scope="module")
def tiny(live: None) -> Iterator[Program]:
    with attached_program(BACKEND, mmap.PAGESIZE) as attached:
        yield attached


@pytest.fixture(scope="module")
def trace(tiny: Program, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    left, right = tcp_pair()

    def poll() -> None:
        right.setblocking(False)
        for _ in range(CALLS):
            with contextlib.suppress(BlockingIOError):
                right.recv(1, socket.MSG_DONTWAIT)

    with left, right:
        made, _ = record(tiny, tmp_path_factory.mktemp("loss") / "trace", poll)
    return made


def test_emitted_is_recorded_plus_lost_of_every_kind(trace: Trace) -> None:
    emitted, recorded, lost = (trace.meta[key] for key in ("emitted", "recorded", "lost"))
    assert emitted["calls"] == CALLS
    assert lost["calls"] > 0
    for kind in ("calls", "deliveries", "threads", "total"):
        assert emitted[kind] == recorded[kind] + lost[kind], kind


def test_the_rows_are_those_that_were_recorded(trace: Trace) -> None:
    assert len(trace.calls) == trace.meta["recorded"]["calls"]
    assert len(trace.threads) == trace.meta["recorded"]["threads"]
    assert (trace.calls[list(PHASES)].fillna(0).sum(axis=1) == trace.calls["duration_ns"]).all()


def test_a_ledger_counts_the_calls_whose_rows_are_lost(trace: Trace) -> None:
    if len(trace.threads):  # unless the ledger itself found no room
        assert trace.threads["calls"].tolist() == [CALLS]
        assert total(trace.threads["spin_ns"]) > total(trace.calls["spin_ns"])


def test_a_session_after_one_with_losses_begins_with_none(tiny: Program, tmp_path: Path) -> None:
    left, right = tcp_pair()

    def receive() -> None:
        right.recv(1)

    with left, right:
        trace, _ = record(tiny, tmp_path / "trace", receive, lambda _: left.send(b"x"))
    assert trace.lost == 0
    assert len(trace.calls) == 1
