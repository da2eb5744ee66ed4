"""What a process had set up before it was traced: how it asked to be told of its sockets.

The kernel shows the interest list of an epoll in /proc/PID/fdinfo (proc(5)): the mask of each
descriptor as ``events``, and the device of its file as ``sdev``. O_ASYNC is in ``flags``.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

from tracer.processes import descendants_of

__all__ = ("Standing", "standing_of", "submitting")

_INTEREST = re.compile(r"tfd: *\d+ events: *([0-9a-f]+) .*? sdev:([0-9a-f]+)")
_FLAGS = re.compile(r"^flags:\s*([0-7]+)$", re.MULTILINE)
_EPOLLONESHOT = 1 << 30
_EPOLLET = 1 << 31


class Standing(TypedDict):
    """Counts of sockets, as in ``threads.csv``, at the moment when tracing began."""

    pid: int
    epoll_level: int
    epoll_edge: int
    epoll_oneshot: int
    sigio_sockets: int
    io_urings: int
    """Rings that it had open."""


def standing_of(pid: int) -> Standing | None:
    """Return what a process has set up, or None if that is nothing, or it is gone."""
    found = Standing(
        pid=pid, epoll_level=0, epoll_edge=0, epoll_oneshot=0, sigio_sockets=0, io_urings=0
    )
    device = _socket_device()
    for kind, text in _descriptors(pid):
        if kind == "anon_inode:[eventpoll]":
            for mask, where in _INTEREST.findall(text):
                if int(where, 16) == device:
                    _add(found, int(mask, 16))
        elif kind == "anon_inode:[io_uring]":
            found["io_urings"] += 1
        elif kind.startswith("socket:") and (flags := _FLAGS.search(text)):
            found["sigio_sockets"] += bool(int(flags[1], 8) & os.O_ASYNC)
    return found if any(value for name, value in found.items() if name != "pid") else None


def submitting(pids: Sequence[int]) -> bool:
    """Return whether any process, or one that it has forked, may ask the kernel to receive for it.

    That is by io_uring or native AIO.
    """
    return any(_submits(one) for pid in pids for one in (pid, *descendants_of(pid)))


def _submits(pid: int) -> bool:
    """Look for rings, and for the mapping that is an AIO context (fs/aio.c, aio_setup_ring)."""
    folder = Path(f"/proc/{pid}")
    try:
        if any(kind == "anon_inode:[io_uring]" for kind, _ in _descriptors(pid)):
            return True
        with (folder / "maps").open("rb") as maps:
            return any(b"/[aio]" in line for line in maps)
    except OSError:  # it is gone, or nobody may look: then it is not known
        return True


def _add(found: Standing, mask: int) -> None:
    found["epoll_edge" if mask & _EPOLLET else "epoll_level"] += 1
    found["epoll_oneshot"] += bool(mask & _EPOLLONESHOT)


def _socket_device() -> int:
    """Return the device that all sockets are on, as the kernel prints it (``s_dev``)."""
    with socket.socket(socket.AF_UNIX) as any_socket:
        device = os.fstat(any_socket.fileno()).st_dev
    return os.major(device) << 20 | os.minor(device)


def _descriptors(pid: int) -> Iterator[tuple[str, str]]:
    """Yield the link of each descriptor that tells how sockets are waited for, and its fdinfo."""
    folder = Path(f"/proc/{pid}")
    try:
        names = [entry.name for entry in (folder / "fd").iterdir()]
    except OSError:
        return
    for name in names:
        try:
            kind = str((folder / "fd" / name).readlink())
            if kind.startswith(("socket:", "anon_inode:[eventpoll]", "anon_inode:[io_uring]")):
                yield kind, (folder / "fdinfo" / name).read_text()
        except OSError:  # closed meanwhile
            continue
