"""Signals at any moment: what was measured is kept, and nothing is left behind."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from analysis.load import load
from probes.layout import RECORD_SIZE
from servers.load import LoadOptions, run_load
from servers.models import by_name
from tests.live.command import Tool, iophase, wait_until
from tracer.reference import ReferenceServer

pytestmark = pytest.mark.live

MESSAGES = 211
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", ENDINGS)
def test_a_signal_while_recording_keeps_all_and_prints_the_summary(
    number: signal.Signals, tmp_path: Path
) -> None:
    path = tmp_path / "trace"
    with (
        ReferenceServer(by_name("epoll")) as server,
        Tool(tmp_path, "record", "-p", server.pid, "-o", path) as tool,
    ):
        tool.says("Hit Ctrl-C to end.")
        assert f"Tracing python ({server.pid}) until it ends" in tool.errors
        run_load(server.address, LoadOptions(messages=MESSAGES, connections=1))
        tool.signal(number)
        assert tool.finish() == 0
        assert server.stop()["messages"] == MESSAGES
    assert tool.complaints == []
    assert str(path) in tool.output
    trace = load(path)
    assert int((trace.calls["bytes"] > 0).sum()) == MESSAGES
    assert not trace.cut_short
    tool.assert_nothing_is_left()


@pytest.mark.parametrize("delay_s", (0.0, 0.15, 0.3, 0.5, 0.8, 1.1))
def test_a_signal_while_starting_leaves_nothing(delay_s: float, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    with Tool(tmp_path, "record", "-o", path, "--", "sleep", "30") as tool:
        time.sleep(delay_s)
        tool.note()
        tool.signal(signal.SIGINT)
        code = tool.finish()
    # Before Python listens to signals it dies of them, and while it imports its site module it
    # gives up (Py_FatalError): nothing of ours runs yet. When tracing has begun, it is stopped.
    if path.exists():
        assert code == 0
        assert (path / "trace.json").exists()
    else:
        assert code in (1, -signal.SIGINT)
        ours = tool.complaints == ["iophase: interrupted"]
        assert code != 1 or ours or "init_import_site" in tool.errors
    assert not list(tmp_path.glob("**/*.partial"))
    tool.assert_nothing_is_left()


def test_a_signal_during_the_load_ends_it_and_reports_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "traces"
    with Tool(tmp_path, "run", "epoll", "poll", "-d", "30", "-o", path) as tool:
        tool.says("[1/2] epoll")
        wait_until(lambda: (path / "epoll/records.spool.partial").exists())
        wait_until(lambda: (path / "epoll/records.spool.partial").stat().st_size > 100_000)
        tool.note()
        tool.signal(signal.SIGINT)
        assert tool.finish() == 0
    assert "stopped before poll" in tool.errors
    assert not (path / "poll").exists()
    trace = load(path / "epoll")
    assert trace.meta["workload"]["messages"] == trace.meta["workload"]["verified"] > 0
    assert int((trace.calls["bytes"] > 0).sum()) == trace.meta["workload"]["messages"]
    tool.assert_nothing_is_left()


def test_a_signal_while_the_files_are_written_says_how_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    with (
        ReferenceServer(by_name("nonblocking")) as server,
        Tool(tmp_path, "record", "-p", server.pid, "-d", "2", "-o", path) as tool,
    ):
        wait_until(lambda: (path / "calls.csv.partial").exists())
        tool.note()
        tool.signal(signal.SIGINT)
        code = tool.finish()
    tool.assert_nothing_is_left()
    if code == 0:
        assert load(path).lost == 0
        pytest.skip("it had finished already")
    assert code == 1
    assert len(tool.complaints) == 1
    assert f"'iophase report {path}' completes the trace" in tool.complaints[0]
    assert not (path / "calls.csv").exists()
    _, code = iophase(tmp_path, "report", path)
    assert code == 0
    trace = load(path)
    assert not trace.cut_short
    assert len(trace.calls) == trace.meta["emitted"]["calls"]


def test_a_tool_that_is_killed_leaves_no_server_and_a_trace_that_can_be_completed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "traces"
    with Tool(tmp_path, "run", "processes", "-d", "30", "-o", path) as tool:
        spool = path / "processes/records.spool.partial"
        wait_until(lambda: spool.exists() and spool.stat().st_size > 100_000)
        tool.note()
        tool.signal(signal.SIGKILL)
        assert tool.finish() == -signal.SIGKILL
    tool.assert_nothing_is_left()
    records = spool.stat().st_size // RECORD_SIZE
    report, code = iophase(tmp_path, "report", path / "processes")
    assert code == 0
    assert "was cut short" in report.errors
    trace = load(path / "processes")
    assert trace.cut_short
    assert len(trace.calls) > 0.9 * records / 2
    assert trace.meta["stopped"] is not None
