"""The probe that only io_uring and native AIO need is attached where a target may use them."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.load import load
from analysis.report import summary_text
from probes.plan import has_tracepoint, make_plan
from probes.program import Program
from servers.models import by_name
from tests.live.command import iophase, wait_until
from tests.live.conftest import BACKEND
from tests.live.recording import is_attached, recording
from tracer.reference import ReferenceServer
from tracer.standing import submitting

pytestmark = pytest.mark.live

PROBE = "sock_recv_length"
SUBMITS = {"io_uring": True, "native-aio": True, "native-aio-poll": True, "epoll": False}


@pytest.mark.parametrize("model", SUBMITS)
def test_it_is_attached_for_whom_it_serves(model: str, tmp_path: Path) -> None:
    with ReferenceServer(by_name(model)) as server:
        if SUBMITS[model]:  # it may listen before it has a ring
            wait_until(lambda: submitting([server.pid]))
        else:
            assert not submitting([server.pid])
        trace = tmp_path / "trace"
        tool, code = iophase(tmp_path, "record", "-p", server.pid, "-d", 0.1, "-o", trace)
    assert code == 0, tool.errors
    attached = SUBMITS[model] and has_tracepoint(PROBE)
    assert is_attached(load(trace), PROBE) == attached


def test_a_ring_that_comes_later_is_said(live: None, tmp_path: Path) -> None:
    program = Program(make_plan(BACKEND, submits=False))
    try:
        program.attach()
        with (
            ReferenceServer(by_name("io_uring")) as server,
            recording(program, tmp_path / "late") as session,
        ):
            session.follow([server.pid])
    finally:
        program.close()
    said = " ".join(summary_text([load(tmp_path / "late")]).split())
    assert "late: what io_uring and native AIO received over UDP and unix sockets is not" in said
