"""Processes to trace: a function in a child process that waits until it is let go."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ("Target", "asleep", "cpu_ns", "numbered", "tcp_pair", "threads")

PATIENCE_S = 90.0 if "IOPHASE_LAB" not in os.environ else 500.0
"""After it something hangs; below the time that pytest allows a test."""
_SYS_CLONE3 = 435


class Target:
    """A forked child that runs ``function`` after ``go``, and hands back what it returns.

    Fork it before a session begins: its sockets are known then as those of any running program.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        gate, self._gate = os.pipe()
        self._answer, answer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._gate)
            _run(function, gate, answer)
        os.close(gate)
        os.close(answer)
        self._ended = False

    def go(self) -> None:
        """Let it run."""
        os.write(self._gate, b"\n")

    def result(self) -> Any:
        """Wait for its end, and return what the function returned."""
        with os.fdopen(self._answer, "rb", closefd=False) as file:
            said = json.loads(file.read())
        _, _, self.usage = os.wait4(self.pid, 0)
        self._ended = True
        assert "error" not in said, said["error"]
        return said["result"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._gate)
        os.close(self._answer)
        if not self._ended:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)


def numbered(pid: int, function: Callable[[], Any]) -> None:
    """Run a function in a child process of this number, to its end (clone3(2), set_tid).

    For a process of one thread: locks that others hold would stay locked in the child.
    """
    number = ctypes.c_int32(pid)
    arguments = (ctypes.c_uint64 * 11)()
    arguments[4], arguments[8], arguments[9] = signal.SIGCHLD, ctypes.addressof(number), 1
    libc = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock, for the child
    child = libc.syscall(_SYS_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments))
    if child < 0:
        raise OSError(ctypes.get_errno(), "clone3")
    if child == 0:
        try:
            function()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _run(function: Callable[[], Any], gate: int, answer: int) -> None:
    """In the child: wait, call the function, say what it returned, and end."""
    try:
        if os.read(gate, 1):
            said = json.dumps({"result": function()})
            os.write(answer, said.encode())
    except BaseException:
        os.write(answer, json.dumps({"error": traceback.format_exc()}).encode())
    finally:
        os._exit(0)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    for end in (left, right):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return left, right


def threads(pid: int) -> list[int]:
    """Return the threads of a process."""
    return sorted(int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir())


def asleep(pid: int) -> None:
    """Return as soon as all threads of a process sleep, and are off the CPU.

    A thread is in state S before it leaves; its ``syscall`` waits until it has left (proc(5)).
    """
    limit = time.monotonic() + PATIENCE_S
    while time.monotonic() < limit:
        tasks = [Path(f"/proc/{pid}/task/{tid}") for tid in threads(pid)]
        stats = [(task / "stat").read_text() for task in tasks]
        if all(stat.rpartition(")")[2].split()[0] == "S" for stat in stats) and not any(
            (task / "syscall").read_text() == "running\n" for task in tasks
        ):
            return
    raise AssertionError(f"process {pid} never sleeps")


def cpu_ns(pid: int) -> int:
    """Return the CPU time of a process's threads by the scheduler's own account (schedstat)."""
    return sum(
        int(Path(f"/proc/{pid}/task/{tid}/schedstat").read_text().split()[0])
        for tid in threads(pid)
    )
