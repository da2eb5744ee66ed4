"""The six reference servers of the article, by every backend: exact counts, pauses, closed sums."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes.program import Program
from servers.load import LoadOptions
from tests.live.recording import assert_closed, total
from tests.matrix.workloads import AFTER_A_PAUSE, FIRST, PAUSE_NS, Served, served

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

SLEEPS_IN = {
    "blocking": "recvfrom",
    "threads": "recvfrom",
    "select": "pselect6",
    "poll": "poll",
    "epoll": "epoll_wait",
}
MESSAGES = 101
SIZES = (1, 509, 4093)
"""Prime, as is their number; each within one segment, so that a message is one arrival."""
CONNECTIONS = 3
PAUSES = 3


OPTIONS = LoadOptions(connections=CONNECTIONS, messages=MESSAGES, sizes=SIZES, timeout=60.0)


@pytest.mark.parametrize("model", SLEEPS_IN)
def test_counts_are_exact_and_a_pause_of_50_ms_is_slept_in_the_call_that_waits(
    model: str, program: Program, tmp_path: Path
) -> None:
    done = served(program, tmp_path / "trace", model, OPTIONS, PAUSES)
    assert_exact(done)
    calls = done.trace.calls
    end = calls["ts_ns"] + calls["duration_ns"]
    slept = []
    for began, ended in done.pauses:
        during = calls[(calls["ts_ns"] <= began) & (end >= ended)]
        rows = during[during["call"] == SLEEPS_IN[model]]
        assert len(rows) == 1
        row = rows.iloc[0]
        # Who says that it sleeps may yet be preempted before it leaves the CPU for that.
        assert row["sleep_ns"] + row["runq_ns"] >= ended - began >= PAUSE_NS
        slept.append(row["sleep_ns"] >= ended - began)
        assert row["spin_ns"] == 0
    assert sum(slept) > len(slept) / 2


def test_counts_are_exact_and_a_server_that_polls_spends_the_pauses_spinning(
    program: Program, tmp_path: Path
) -> None:
    done = served(program, tmp_path / "trace", "nonblocking", OPTIONS, PAUSES, sleeps=False)
    assert_exact(done)
    calls = done.trace.calls
    assert total(calls["sleep_ns"]) == 0
    end = calls["ts_ns"] + calls["duration_ns"]
    for began, ended in done.pauses:
        during = calls[(calls["ts_ns"] >= began) & (end <= ended)]
        assert len(during)
        assert (during["result"] == -11).all()
        assert total(during["spin_ns"]) > 0
        assert total(during["copy_ns"]) == total(during["check_ns"]) == 0


def assert_exact(done: Served) -> None:
    """Check messages, bytes and deliveries of the load and of what came after the pauses."""
    trace, result, counters, _ = done
    assert result.messages == result.verified == MESSAGES
    messages = MESSAGES + 1 + PAUSES
    sent = result.bytes_sent + len(FIRST) + PAUSES * len(AFTER_A_PAUSE)
    receives = trace.calls[trace.calls["call"] == "recvfrom"]
    assert counters["messages"] == (receives["bytes"] > 0).sum() == messages
    assert len(trace.deliveries) == messages
    assert counters["bytes_received"] == sent == total(receives["bytes"])
    assert total(trace.deliveries["bytes"]) == sent == total(trace.threads["bytes"])
    known = trace.deliveries.dropna(subset=["ready_ns"])
    assert (known["ready_ns"] <= known["noticed_ns"]).all()
    assert (known["noticed_ns"] <= known["copied_ns"]).all()
    # The first of a connection may come before it.
    assert len(known) >= messages - CONNECTIONS - 1
    assert receives["copy_ns"].notna().mean() > 0.95  # a program can be skipped: KERNELS.md
    assert trace.meta["resolution_ns"]["copy"] > 0
    assert_closed(trace)
