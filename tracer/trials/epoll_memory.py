"""Waits into memory that may not be written, and an attempt to map an epoll descriptor.

If the kernel shared its ready list, a wait would write nothing to the caller's buffer. Where it
does write, and may not, that fails with EFAULT: epoll_wait(2), ERRORS; mprotect(2).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
from typing import Any

from servers.native import address_of
from tracer.trials.trial import ROUNDS, run, tcp_pair

__all__ = ("trial",)

MESSAGE = bytes(64)
PROT_READ, PROT_READ_WRITE = 1, 3
EVENTS = 1
PATIENCE_MS = 5000


def _mmap_error(descriptor: int) -> str | None:
    """Try to map a descriptor of epoll; return the name of the error, None if it is mapped."""
    try:
        mmap.mmap(descriptor, mmap.PAGESIZE).close()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return None


def trial() -> dict[str, Any]:
    """Let data arrive; wait for it with a page that may only be read, then with a writable one."""
    near, far = tcp_pair()
    watcher = select.epoll()
    watcher.register(near, select.EPOLLIN)
    libc = ctypes.CDLL(None, use_errno=True)
    page = mmap.mmap(-1, mmap.PAGESIZE)
    address = ctypes.c_void_p(address_of(page))
    length = ctypes.c_size_t(mmap.PAGESIZE)
    for _ in range(ROUNDS):
        far.sendall(MESSAGE)
        for protection in (PROT_READ, PROT_READ_WRITE):
            if libc.mprotect(address, length, protection):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            libc.epoll_wait(watcher.fileno(), address, EVENTS, PATIENCE_MS)
        near.recv(len(MESSAGE))
    return {"rounds": ROUNDS, "mmap_error": _mmap_error(watcher.fileno())}


if __name__ == "__main__":
    run(trial)
