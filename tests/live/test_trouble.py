"""Bad input and trouble: one clear line, the right exit code, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.load import load
from servers.models import by_name
from tests.live.command import IOPHASE, ROOT, Tool, iophase, wait_until
from tests.live.seccomp import refuse
from tests.live.target import Target
from tracer.reference import ReferenceServer

pytestmark = pytest.mark.live

FAILED, USAGE = 1, 2


def refused(tool: Tool, code: int, expected: int, *words: str) -> None:
    """Check that it ended with one line that has all the words, and told no more."""
    assert code == expected, tool.errors
    assert len(tool.errors.splitlines()) == 1, tool.errors
    assert all(word in tool.complaints[0] for word in words), tool.errors
    assert tool.output == ""


def test_without_root_it_says_what_is_missing(tmp_path: Path) -> None:
    nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    path = tmp_path / "trace"
    tool, code = iophase(tmp_path, "record", "-o", path, "--", "true", prefix=nobody)
    refused(tool, code, FAILED, "not root", "sudo")
    assert not path.exists()


def test_without_btf_it_says_what_kernel_is_needed(tmp_path: Path) -> None:
    script = 'mount -t tmpfs none /sys/kernel/btf && exec "$@"'
    hidden = ("unshare", "-m", "sh", "-c", script, "sh")
    path = tmp_path / "trace"
    tool, code = iophase(tmp_path, "record", "-o", path, "--", "true", prefix=hidden)
    refused(tool, code, FAILED, "/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF")
    assert not path.exists()


def test_a_kernel_that_refuses_bpf_is_named_as_the_cause(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    done = subprocess.run(
        [*IOPHASE, "record", "-o", str(path), "--", "true"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: refuse("bpf"),
    )
    assert done.returncode == FAILED, done.stderr
    assert done.stderr.startswith("iophase: ")
    assert "Operation not permitted" in done.stderr
    assert "iophase lab" in done.stderr
    assert not path.exists()


def test_a_process_that_does_not_exist_is_wrong_usage(tmp_path: Path) -> None:
    with Target(lambda: None) as target:
        target.go()
        target.result()
    tool, code = iophase(tmp_path, "record", "-p", target.pid, "-o", tmp_path / "trace")
    refused(tool, code, USAGE, f"process {target.pid}", "there is none")
    assert not (tmp_path / "trace").exists()


def test_a_target_that_ends_while_traced_ends_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    with (
        ReferenceServer(by_name("select")) as server,
        Tool(tmp_path, "record", "-p", server.pid, "-o", path) as tool,
    ):
        tool.says("Hit Ctrl-C to end.")
        os.kill(server.pid, signal.SIGKILL)
        assert tool.finish() == 0
    assert tool.complaints == []
    trace = load(path)
    assert len(trace.threads) >= 1
    assert trace.calls["call"].iloc[0] == "pselect6"
    tool.assert_nothing_is_left()


@pytest.mark.parametrize("command", ("no-such-command", "/etc/passwd"))
def test_a_command_that_cannot_be_executed_is_wrong_usage(command: str, tmp_path: Path) -> None:
    tool, code = iophase(tmp_path, "record", "-o", tmp_path / "trace", "--", command)
    refused(tool, code, USAGE, command, "no such command, or not executable")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(("script", "how"), (("exit 3", "status 3"), ("kill -9 $$", "signal 9")))
def test_a_command_that_fails_is_said_to_have_failed_and_its_trace_kept(
    script: str, how: str, tmp_path: Path
) -> None:
    path = tmp_path / "trace"
    tool, code = iophase(tmp_path, "record", "-o", path, "--", "sh", "-c", script)
    assert code == FAILED
    assert tool.complaints == [f"iophase: sh: ended with {how}; its trace is complete"]
    trace = load(path)
    assert trace.meta["targets"][0]["comm"] == "sh"
    assert trace.meta["command"] == ["sh", "-c", script]


def test_a_command_that_is_stopped_because_time_is_over_has_not_failed(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    tool, code = iophase(tmp_path, "record", "-d", "0.1", "-o", path, "--", "sleep", "30")
    assert code == 0, tool.errors
    assert "Tracing sleep 30 for 0.1 s ... Hit Ctrl-C to end." in tool.errors


def test_an_output_that_exists_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    arguments = ("record", "-o", path, "--", "true")
    assert iophase(tmp_path, *arguments)[1] == 0
    before = (path / "trace.json").read_text()
    tool, code = iophase(tmp_path, *arguments)
    refused(tool, code, USAGE, str(path), "exists", "--force")
    assert (path / "trace.json").read_text() == before
    assert iophase(tmp_path, *arguments[:1], "--force", *arguments[1:])[1] == 0
    assert (path / "trace.json").read_text() != before


def test_an_output_that_is_no_trace_is_not_replaced_by_force(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("precious")
    tool, code = iophase(tmp_path, "record", "--force", "-o", mine, "--", "true")
    refused(tool, code, USAGE, str(mine), "is not a trace")
    assert [entry.name for entry in mine.iterdir()] == ["file"]


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tool, code = iophase(tmp_path, "record", "-o", "/proc/trace", "--", "true")
    refused(tool, code, FAILED, "/proc/trace", "cannot be written")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_fills_up_ends_the_recording_and_keeps_what_was_measured(
    small_disk: Path, tmp_path: Path
) -> None:
    path = small_disk / "trace"
    with (
        ReferenceServer(by_name("nonblocking")) as server,
        Tool(tmp_path, "record", "-p", server.pid, "-o", path) as tool,
    ):
        assert tool.finish() == FAILED  # neither its target nor a duration has ended it
    assert len(tool.complaints) == 1
    assert "No space left on device" in tool.complaints[0]
    assert not (path / "trace.json").exists()
    tool.assert_nothing_is_left()
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    report, code = iophase(tmp_path, "report", path)
    assert code == 0, report.errors
    assert len(load(path).calls) > 1000


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with ReferenceServer(by_name("epoll")) as server:
        port = server.address.rpartition(":")[2]
        tool, code = iophase(tmp_path, "serve", "epoll", "--port", port)
    assert code == FAILED
    assert len(tool.errors.splitlines()) == 1
    assert port in tool.errors
    assert "Address already in use" in tool.errors


POLLER = """
import socket
end, other = socket.socketpair()
for _ in range(20_011):
    try:
        end.recv(1, socket.MSG_DONTWAIT)
    except BlockingIOError:
        pass
"""


@pytest.mark.parametrize(("strict", "expected"), (((), 0), (("--strict",), 3)))
def test_losses_are_said_first_and_fail_only_a_strict_recording(
    strict: tuple[str, ...], expected: int, tmp_path: Path
) -> None:
    path = tmp_path / "trace"
    page_mib = os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    command = (sys.executable, "-c", POLLER)
    options = ("--ring", page_mib, *strict, "-o", path)
    tool, code = iophase(tmp_path, "record", *options, "--", *command)
    assert code == expected, tool.errors
    lost = load(path).lost
    assert lost
    first = tool.output.splitlines()[0]
    assert "LOST" in first
    assert f"{lost:,}" in first


def test_a_run_that_is_refused_its_output_has_not_started_a_server(tmp_path: Path) -> None:
    (tmp_path / "epoll").mkdir()
    (tmp_path / "epoll" / "file").touch()
    with Tool(tmp_path, "run", "epoll", "-o", tmp_path) as tool:
        wait_until(lambda: tool.process.poll() is not None)
        assert tool.finish() == USAGE
    assert len(tool.complaints) == 1
    assert "exists" in tool.complaints[0]


WITHOUT_PTRACE = (
    "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
    "--inh-caps", "+bpf,+perfmon", "--ambient-caps", "+bpf,+perfmon",
)  # fmt: skip


def test_one_that_appears_and_may_not_be_looked_into_is_said_once_and_counted(
    tmp_path: Path,
) -> None:
    name = "iophase-closed"
    with tempfile.TemporaryDirectory() as folder:  # that somebody without rights can reach
        program, path = Path(folder, name), Path(folder, "trace")
        Path(folder).chmod(0o777)
        shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
        arguments = ("record", "--comm", name, "--wait", "-o", path)
        with Tool(tmp_path, *arguments, prefix=WITHOUT_PTRACE) as tool:
            tool.says("(0 now) until Ctrl-C")
            with subprocess.Popen([program, "60"]) as closed:
                tool.says(f"process {closed.pid} ({name}) belongs to user 0")
                with subprocess.Popen([program, "60"], user=65534, group=65534) as open_:
                    made = path / "trace.json.partial"
                    wait_until(lambda: f'"pid": {open_.pid}' in made.read_text())
                    open_.kill()
                closed.kill()
            tool.signal(signal.SIGINT)
            assert tool.finish() == 0
        assert len(tool.complaints) == 1
        assert tool.complaints[0].endswith("run with sudo; it is not traced")
        assert f"Not traced\n{name} {closed.pid}: looking into them was refused" in tool.output
        meta = load(path).meta
    assert meta["targets"] == [{"pid": open_.pid, "comm": name}]
    assert meta["refused"] == [{"pid": closed.pid, "comm": name}]
    tool.assert_nothing_is_left()


def test_a_listener_that_appears_and_cannot_be_found_is_said_once(tmp_path: Path) -> None:
    with socket.socket() as listener, tempfile.TemporaryDirectory() as folder:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        Path(folder).chmod(0o777)
        arguments = ("record", "--port", port, "--wait", "-o", Path(folder, "trace"))
        with Tool(tmp_path, *arguments, prefix=WITHOUT_PTRACE) as tool:
            tool.says("(0 now) until Ctrl-C")
            listener.listen()
            tool.says(f"port {port}: who listens there belongs to another user")
            time.sleep(0.5)  # several looks
            tool.signal(signal.SIGINT)
            assert tool.finish() == FAILED
        assert len(tool.complaints) == 2
        assert "none has appeared" in tool.complaints[1]
        assert not list(Path(folder).iterdir())


def test_top_does_not_wait_for_a_listener_that_cannot_be_found(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        arguments = ("top", "--port", port, "--wait")
        tool, code = iophase(tmp_path, *arguments, prefix=WITHOUT_PTRACE)
    refused(tool, code, FAILED, f"port {port}", "belongs to another user", "run with sudo")
