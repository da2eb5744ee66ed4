"""Copies of UDP and unix sockets: function probes see them, tracepoints alone say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes.plan import Backend
from probes.program import Program
from tests.live.recording import assert_closed, is_attached
from tests.live.test_calls import PAIRS, udp_pair
from tests.matrix.workloads import queued

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

TIMES = 19
SMALL, LARGE = 61, 60_000
"""The largest datagram over IP is one of 65,507 bytes."""
TRANSPORTS = {kind: PAIRS[kind] for kind in ("udp", "unix stream", "unix datagram")}
TRANSPORTS["udp6"] = lambda: udp_pair("::1")


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_copies_of_other_sockets_are_exact_or_absent_and_marked(
    kind: str, backend: Backend, program: Program, tmp_path: Path
) -> None:
    trace = queued(program, tmp_path / "trace", {SMALL: TIMES, LARGE: TIMES}, TRANSPORTS[kind])
    rows = trace.calls[trace.calls["call"] == "recvfrom"]
    assert sorted(rows["bytes"]) == [SMALL] * TIMES + [LARGE] * TIMES
    assert_closed(trace)
    if backend == "tracepoint":
        assert rows["copy_ns"].isna().all()
        assert rows["function_ns"].isna().all()
        assert trace.deliveries["notify_ns"].isna().all()
        assert not is_attached(trace, "skb_copy_datagram_iter")
        return
    known = rows[rows["copy_ns"].notna()]
    assert len(known) > 0.95 * len(rows)  # a program can be skipped: KERNELS.md
    assert (known["copy_ns"] > 0).all()
    assert (known["copy_ns"] < known["function_ns"]).all()
    assert (known["function_ns"] < known["duration_ns"]).all()
    quickest = known.groupby("bytes")["copy_ns"].min()
    assert quickest[LARGE] > 3 * quickest[SMALL]
