"""The command itself in a process: what it says, what it starts, and what it leaves behind."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.conftest import SYS_BPF
from tests.live.target import PATIENCE_S

__all__ = ("IOPHASE", "Tool", "iophase", "wait_until")

ROOT = Path(__file__).parents[2]
_BPF_PROG_GET_NEXT_ID = 11
IOPHASE = (sys.executable, "-m", "tracer")


def wait_until(condition: Callable[[], object]) -> None:
    """Return as soon as it holds."""
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit, "it never came"
        time.sleep(0.01)


class Tool:
    """``iophase`` with some arguments, running; ``prefix`` is a command that starts it."""

    def __init__(self, folder: Path, *arguments: object, prefix: Sequence[str] = ()) -> None:
        self._said = folder / f"stderr-{time.monotonic_ns()}"
        with self._said.open("w") as errors:
            self.process = subprocess.Popen(
                [*prefix, *IOPHASE, *map(str, arguments)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.output = ""
        self._programs: set[int] = set()
        self._children: set[int] = set()

    @property
    def errors(self) -> str:
        """What it has written to stderr so far."""
        return self._said.read_text()

    @property
    def complaints(self) -> list[str]:
        """The lines of stderr that complain."""
        return [line for line in self.errors.splitlines() if line.startswith("iophase: ")]

    def says(self, text: str) -> None:
        """Wait until it has written a text to stderr, and note what it holds then."""
        wait_until(lambda: text in self.errors or self.process.poll() is not None)
        assert text in self.errors, self.errors
        self.note()

    def note(self) -> None:
        """Note the BPF programs and processes that it holds now."""
        self._programs |= programs_of(self.process.pid)
        self._children |= descendants(self.process.pid)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def finish(self) -> int:
        """Wait for its end; return the exit code."""
        self.output, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode

    def assert_nothing_is_left(self) -> None:
        """Check that what was noted is gone."""
        wait_until(lambda: not self._programs & loaded_programs())
        wait_until(lambda: not any(map(is_alive, self._children)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def iophase(folder: Path, *arguments: object, prefix: Sequence[str] = ()) -> tuple[Tool, int]:
    """Run it to its end; return it and the exit code."""
    with Tool(folder, *arguments, prefix=prefix) as tool:
        return tool, tool.finish()


def programs_of(pid: int) -> set[int]:
    """Return the BPF programs to which a process has descriptors, by their kernel-wide ids."""
    ids = set()
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            lines = entry.read_text().splitlines()
        except OSError:
            continue
        ids |= {int(line.split()[1]) for line in lines if line.startswith("prog_id:")}
    return ids


def loaded_programs() -> set[int]:
    """Return the ids of all BPF programs."""
    libc = ctypes.CDLL(None, use_errno=True)
    ids = set()
    attr = (ctypes.c_uint32 * 3)()  # start_id, next_id, open_flags
    arguments = (SYS_BPF[platform.machine()], _BPF_PROG_GET_NEXT_ID, attr, ctypes.sizeof(attr))
    while libc.syscall(*arguments) == 0:
        attr[0] = attr[1]
        ids.add(attr[1])
    number = ctypes.get_errno()
    if number != errno.ENOENT:
        raise OSError(number, os.strerror(number))
    return ids


def descendants(pid: int) -> set[int]:
    """Return the processes that a process has started, with theirs."""
    found: set[int] = set()
    queue = [pid]
    while queue:
        for children in Path(f"/proc/{queue.pop()}/task").glob("*/children"):
            new = {int(child) for child in children.read_text().split()} - found
            found |= new
            queue += new
    return found


def is_alive(pid: int) -> bool:
    """Say whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
