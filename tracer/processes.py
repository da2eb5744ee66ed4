"""What /proc says of a process's threads at the moment when they begin to be traced (proc(5))."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from probes import calls
from probes.program import OpenThread
from tracer.comm import printable

__all__ = (
    "comm_of",
    "descendants_of",
    "is_closed",
    "raw_comm_of",
    "socket_inodes",
    "started",
    "thread_now",
    "threads_of",
)

_SOCKET = re.compile(r"socket:\[(\d+)\]")
_CALL_BY_NUMBER = {
    number: calls.CALL_NAMES.index(name)
    for name, number in calls.numbers().items()
    if name in calls.CALL_NAMES
}


def raw_comm_of(pid: int) -> bytes:
    """Return the name of a process as the kernel has it; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_bytes().removesuffix(b"\n")
    except OSError:
        return b""


def comm_of(pid: int) -> str:
    """Return the name of a process, to be printed; empty if it is gone."""
    return printable(raw_comm_of(pid))


def started(pid: int) -> int:
    """Return when a process began, in clock ticks since boot; 0 if it is gone.

    With its number that says which process it is: numbers are used again.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    return int(status.rpartition(b")")[2].split()[19])


def is_closed(pid: int) -> bool:
    """Return whether a process is there, and this one may not look into it (ptrace(2))."""
    try:
        Path(f"/proc/{pid}/syscall").read_bytes()
    except PermissionError:
        return True
    except OSError:  # it is gone, or the kernel has no such file
        return False
    return False


def _socket_of(pid: int, fd: int) -> int:
    """Return the inode number of the socket behind a descriptor; 0 if it is not one."""
    try:
        match = _SOCKET.fullmatch(str(Path(f"/proc/{pid}/fd/{fd}").readlink()))
    except OSError:
        return 0
    return int(match[1]) if match else 0


def _in_call(thread: OpenThread, words: list[str]) -> OpenThread:
    """Complete ``thread`` with the system call of /proc/PID/syscall: number and arguments."""
    index = _CALL_BY_NUMBER.get(int(words[0]))
    if index is None:
        return thread._replace(call=-1)
    call = calls.CALLS[index]
    first, second = int(words[1], 16), int(words[2], 16)
    if call.name in ("select", "pselect6"):
        return thread._replace(call=index, nfds=first)
    if call.name in ("poll", "ppoll"):
        return thread._replace(call=index, nfds=second)
    if call.name.startswith("epoll") or call.name == "io_uring_enter":
        return thread._replace(call=index, fd=first)
    if call.kind in ("wait", "signal", "submit"):
        return thread._replace(call=index)
    socket = _socket_of(thread.pid, first)
    if not socket:
        return thread._replace(call=-1)
    return thread._replace(call=index, fd=first, socket=socket)


def thread_now(pid: int, tid: int) -> OpenThread | None:
    """Return what is known of a thread now, or None if it is gone."""
    folder = Path(f"/proc/{pid}/task/{tid}")
    try:
        comm = os.fsdecode((folder / "comm").read_bytes().removesuffix(b"\n"))
        status = (folder / "stat").read_bytes()
        words = (folder / "syscall").read_text().split()
    except OSError:
        return None
    asleep = status.rpartition(b")")[2].split()[0] in b"SDTt"
    thread = OpenThread(pid, tid, comm, asleep=asleep)
    if comm.startswith("iou-"):
        return thread._replace(call=-1)  # of io_uring: in the kernel all its life
    if not asleep or words[0] in ("running", "-1"):
        return thread
    return _in_call(thread, words)


def threads_of(pid: int) -> Iterator[OpenThread]:
    """Yield each thread of a process, looked at one by one; nothing if the process is gone."""
    try:
        tids = sorted(int(task.name) for task in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return
    for tid in tids:
        thread = thread_now(pid, tid)
        if thread is not None:
            yield thread


def descendants_of(pid: int) -> list[int]:
    """Return the children of a process and theirs, as far as they still exist."""
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def socket_inodes(pid: int) -> set[int]:
    """Return the inode numbers of the sockets that a process has open."""
    try:
        fds = [int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return set()
    return {inode for fd in fds if (inode := _socket_of(pid, fd))}
