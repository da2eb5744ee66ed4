"""The six reference servers of the article, by every backend: exact counts, pauses, closed sums."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes.program import Program
from servers.load import LoadOptions
from tests.live.recording import assert_closed, total
from tests.matrix.workloads import PAUSE_NS, paused, served

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

SLEEPS_IN = {
    "blocking": "recvfrom",
    "threads": "recvfrom",
    "select": "pselect6",
    "poll": "poll",
    "epoll": "epoll_wait",
}
MODELS = (*SLEEPS_IN, "nonblocking")
MESSAGES = 101
SIZES = (1, 509, 4093)
"""Prime, as is their number; each within one segment, so that a message is one arrival."""
CONNECTIONS = 3
PAUSES = 3


@pytest.mark.parametrize("model", MODELS)
def test_messages_bytes_and_deliveries_are_exact(
    model: str, program: Program, tmp_path: Path
) -> None:
    options = LoadOptions(connections=CONNECTIONS, messages=MESSAGES, sizes=SIZES, timeout=60.0)
    trace, result, counters = served(program, tmp_path / "trace", model, options)
    receives = trace.calls[trace.calls["call"] == "recvfrom"]
    assert counters["messages"] == result.messages == result.verified == MESSAGES
    assert (receives["bytes"] > 0).sum() == MESSAGES
    assert len(trace.deliveries) == MESSAGES
    sent = result.bytes_sent
    assert counters["bytes_received"] == sent == total(receives["bytes"])
    assert total(trace.deliveries["bytes"]) == sent == total(trace.threads["bytes"])
    known = trace.deliveries.dropna(subset=["ready_ns"])
    assert (known["ready_ns"] <= known["noticed_ns"]).all()
    assert (known["noticed_ns"] <= known["copied_ns"]).all()
    assert len(known) >= MESSAGES - CONNECTIONS  # the first of a connection may come before it
    assert receives["copy_ns"].notna().mean() > 0.95  # a program can be skipped: KERNELS.md
    assert trace.meta["resolution_ns"]["copy"] > 0
    assert_closed(trace)


@pytest.mark.parametrize("model", SLEEPS_IN)
def test_a_pause_of_50_ms_is_slept_in_the_call_that_waits(
    model: str, program: Program, tmp_path: Path
) -> None:
    trace, pauses = paused(program, tmp_path / "trace", model, PAUSES, sleeps=True)
    end = trace.calls["ts_ns"] + trace.calls["duration_ns"]
    slept = []
    for began, ended in pauses:
        during = trace.calls[(trace.calls["ts_ns"] <= began) & (end >= ended)]
        rows = during[during["call"] == SLEEPS_IN[model]]
        assert len(rows) == 1
        row = rows.iloc[0]
        # Who says that it sleeps may yet be preempted before it leaves the CPU for that.
        assert row["sleep_ns"] + row["runq_ns"] >= ended - began >= PAUSE_NS
        slept.append(row["sleep_ns"] >= ended - began)
        assert row["spin_ns"] == 0
    assert sum(slept) > len(slept) / 2
    assert_closed(trace)


def test_a_server_that_polls_spends_the_pauses_spinning(program: Program, tmp_path: Path) -> None:
    trace, pauses = paused(program, tmp_path / "trace", "nonblocking", PAUSES, sleeps=False)
    assert total(trace.calls["sleep_ns"]) == 0
    end = trace.calls["ts_ns"] + trace.calls["duration_ns"]
    for began, ended in pauses:
        during = trace.calls[(trace.calls["ts_ns"] >= began) & (end <= ended)]
        assert len(during)
        assert (during["result"] == -11).all()
        assert total(during["spin_ns"]) > 0
        assert total(during["copy_ns"]) == total(during["check_ns"]) == 0
    assert_closed(trace)
