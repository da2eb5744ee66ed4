"""Whom the arguments name: found, or refused in one line."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tracer import cgroups, processes, targets
from tracer.comm import COMM_BYTES
from tracer.errors import USAGE, IophaseError
from tracer.host import own_pids
from tracer.target_arguments import add_targets
from tracer.targets import Targets, chosen

NAME = "iophase-asleep"
PATIENCE_S = 10

pytestmark = pytest.mark.skipif(
    own_pids(), reason="in a PID namespace of its own iophase traces nothing"
)


@contextmanager
def asleep(program: Path) -> Iterator[int]:
    """Yield a process that sleeps, and is called like the file at this path."""
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as process:
        limit = time.monotonic() + PATIENCE_S
        while processes.raw_comm_of(process.pid) != os.fsencode(program.name)[:COMM_BYTES]:
            assert time.monotonic() < limit
        while not (thread := processes.thread_now(process.pid, process.pid)) or not thread.asleep:
            assert time.monotonic() < limit
        yield process.pid
        process.kill()


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[int]:
    """Yield a process that sleeps under a name of its own."""
    with asleep(tmp_path / NAME) as pid:
        yield pid


def parsed(*arguments: str, command: list[str] | None = None) -> Targets:
    parser = ArgumentParser()
    add_targets(parser)
    args = parser.parse_args(arguments)
    args.verb = "record"
    return chosen(args, command or [])


def refusal(*arguments: str, command: list[str] | None = None) -> str:
    """Return the one line that the arguments are refused with."""
    with pytest.raises(IophaseError) as refused:
        wanted = parsed(*arguments, command=command)
        if wanted.find():
            raise AssertionError("something was found")
        raise wanted.nothing()
    assert refused.value.exit_code == USAGE
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_processes_are_found_by_number_name_and_both(sleeper: int) -> None:
    assert parsed("-p", str(sleeper)).find() == [sleeper]
    assert parsed("--comm", NAME).find() == [sleeper]
    assert parsed("-p", str(sleeper), "--comm", NAME).find() == [sleeper]


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        (b"\xff\x1b[31m \r)(", r"\xff\x1b[31m \r)("),
        ("жжжжжжжж".encode(), r"жжжжжжж\xd0"),  # sixteen bytes, of which the kernel keeps fifteen
    ],
    ids=["bytes", "cut"],
)
def test_a_process_may_have_any_name(name: bytes, printed: str, tmp_path: Path) -> None:
    with asleep(tmp_path / os.fsdecode(name)) as pid:
        assert parsed("--comm", os.fsdecode(name)).find() == [pid]
        assert parsed("-p", str(pid)).find() == [pid]
        assert processes.comm_of(pid) == printed
        assert processes.started(pid) > 0
        thread = processes.thread_now(pid, pid)
        assert thread is not None
        assert os.fsencode(thread.comm) == name[:COMM_BYTES]
        assert "nobody" in refusal("--comm", "nobody")
        assert f"({printed})" in refusal("-p", str(pid), "--comm", "nobody")


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["inet", "inet6"])
def test_who_listens_on_a_port_is_found(
    kind: socket.SocketKind, family: socket.AddressFamily
) -> None:
    with socket.socket(family, kind) as listener:
        listener.bind(("", 0))
        if kind == socket.SOCK_STREAM:
            listener.listen()
        code = "import time; print(flush=True); time.sleep(60)"
        with subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            pass_fds=[listener.fileno()],
        ) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            assert parsed("--port", str(listener.getsockname()[1])).find() == [holder.pid]
            holder.kill()


def test_a_port_where_nobody_listens_is_refused() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        assert refusal("--port", str(port)).startswith(f"port {port}: nobody listens there")
    assert refusal("--port", "70000") == "port 70000: ports are 1 to 65535"


def test_a_name_that_nobody_has_is_refused_with_the_nearest(sleeper: int) -> None:
    assert refusal("--comm", NAME + "s") == (
        f"no process is called '{NAME}s'; did you mean '{NAME}'? --wait waits for it"
    )


def test_numbers_that_cannot_be_traced_are_refused_with_the_reason(sleeper: int) -> None:
    assert refusal("-p", "12,x").startswith("-p 12,x: not a list")
    assert refusal("-p", "-3").startswith("-p -3: not a list")
    assert refusal("-p", "4194304") == "process 4194304: there is none: nothing to trace"
    assert refusal("-p", str(os.getpid())).endswith("is iophase itself: it cannot trace itself")
    assert refusal("-p", ",").startswith("-p ,: not a list")
    kernel = next(filter(targets._is_kernel_thread, targets._pids()))
    assert "is a kernel thread" in refusal("-p", str(kernel))
    name = Path(f"/proc/{kernel}/comm").read_text().strip()
    assert refusal("--comm", name) == f"'{name}' is a kernel thread: it makes no system calls"
    with subprocess.Popen(["true"]) as ended:
        limit = time.monotonic() + PATIENCE_S
        while "Z" not in Path(f"/proc/{ended.pid}/stat").read_text().split()[2]:
            assert time.monotonic() < limit
        assert refusal("-p", str(ended.pid)).endswith("has ended: nothing to trace")


def test_a_thread_is_refused_with_the_arguments_that_trace_it() -> None:
    code = "import threading as t; t.Thread(target=input).start(); print(flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        tids = [int(task.name) for task in Path(f"/proc/{process.pid}/task").iterdir()]
        thread = next(tid for tid in tids if tid != process.pid)
        assert refusal("-p", str(thread)).endswith(f"use -p {process.pid} -t {thread}")
        process.communicate(b"\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without privileges")
def test_processes_of_another_user_are_refused_without_privilege(sleeper: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code = (
            "import os, sys; sys.path.insert(0, '.');"
            "from tracer.targets import Targets;"
            "os.setgroups([]); os.setresgid(65534, 65534, 65534);"
            "os.setresuid(65534, 65534, 65534)\n"
            f"for wanted in Targets(({sleeper},)), Targets(comm='{NAME}'), Targets(port={port}):\n"
            "    try: raise wanted.nothing() if not wanted.find() else ValueError\n"
            "    except Exception as error: print(error, error.exit_code)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
    refused = (
        f"process {sleeper} ({NAME}) belongs to user 0: looking into it needs CAP_SYS_PTRACE:"
        " run with sudo 1"
    )
    assert done.stdout.splitlines() == [
        refused,
        refused,
        f"port {port}: who listens there belongs to another user: finding out needs"
        " CAP_SYS_PTRACE: run with sudo 1",
    ]


def test_targets_that_contradict_each_other_are_refused(sleeper: int) -> None:
    assert "contradict" in refusal("-p", str(sleeper), "--comm", "another")
    assert "contradict" in refusal("--comm", NAME, command=["true"])
    assert "contradict" in refusal("--wait", command=["true"])
    assert "contradict" in refusal("-p", str(sleeper), "--wait")
    assert refusal().startswith("record: name a target")


def test_a_process_that_appears_later_is_found(tmp_path: Path) -> None:
    wanted = parsed("--comm", NAME, "--wait")
    appearing = wanted.appearing()
    assert appearing.look() == []
    program = tmp_path / NAME
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as process:
        limit = time.monotonic() + PATIENCE_S
        while not (found := appearing.look()):
            assert time.monotonic() < limit
        assert found == [process.pid]
        process.kill()
    assert 0 < appearing.latency_s < 1


class Hierarchy:
    """A folder that looks like a mounted cgroup hierarchy."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.add("")

    def add(self, path: str, *pids: int) -> None:
        folder = self.root / path
        for level in (folder, *folder.parents):
            level.mkdir(parents=True, exist_ok=True)
            if level == self.root.parent:
                break
            (level / "cgroup.procs").touch()
        (folder / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))


@pytest.fixture
def hierarchy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hierarchy:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"cgroup2 {tmp_path / 'unified'} cgroup2 rw 0 0\nproc /proc proc rw 0 0\n")
    monkeypatch.setattr(cgroups, "_MOUNTS", mounts)
    return Hierarchy(tmp_path / "unified")


def test_a_cgroup_is_found_by_path_unit_and_container(hierarchy: Hierarchy) -> None:
    container = "3f" * 32
    hierarchy.add("system.slice/web.service", 11, 0)
    hierarchy.add("system.slice/web.service/workers", 12)
    hierarchy.add(f"system.slice/docker-{container}.scope", 13)
    for name in (
        str(hierarchy.root / "system.slice/web.service"),
        "/system.slice/web.service",
        "web.service",
        "web",
    ):
        assert cgroups.processes_in(cgroups.find_cgroups(name)) == {11, 12}, name
    for name in (container, container[:12], container[:6]):
        assert cgroups.processes_in(cgroups.find_cgroups(name)) == {13}, name


def test_a_cgroup_that_is_not_there_or_not_unique_is_refused(hierarchy: Hierarchy) -> None:
    hierarchy.add("kubepods/" + "ab" * 32, 11)
    hierarchy.add("kubepods/" + "ab" * 31 + "cd", 12)
    assert refusal("--cgroup", "/no/such").startswith("cgroup /no/such: there is none")
    assert refusal("--cgroup", "nothing.service").startswith("cgroup nothing.service: there is")
    assert refusal("--cgroup", "abab" * 4).endswith(": give more")


@pytest.mark.skipif(os.geteuid() != 0, reason="making a cgroup needs root")
def test_the_processes_of_a_real_cgroup_are_found(sleeper: int) -> None:
    point = cgroups._hierarchies()[0]
    folder = point / f"iophase-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error.strerror}")
    try:
        assert "no process is in it" in refusal("--cgroup", folder.name)
        (folder / "cgroup.procs").write_text(str(sleeper))
        assert parsed("--cgroup", f"/{folder.name}").find() == [sleeper]
        (point / "cgroup.procs").write_text(str(sleeper))
    finally:
        folder.rmdir()
