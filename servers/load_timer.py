"""A timer among the descriptors of an epoll, finer than the milliseconds of epoll_wait(2)."""

from __future__ import annotations

import ctypes
import os
import struct
import time

__all__ = ("NEVER", "SECOND", "Timer")

NEVER = 1 << 62
SECOND = 1_000_000_000
TIMER_ABSTIME = 1  # TFD_TIMER_ABSTIME

_libc = ctypes.CDLL(None, use_errno=True)


class Timer:
    """A timerfd, set to moments of CLOCK_MONOTONIC in ns."""

    def __init__(self) -> None:
        self.fd: int = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._at = NEVER

    def set(self, at_ns: int) -> None:
        """Fire at this time."""
        if at_ns == self._at or at_ns == NEVER:
            return
        self._at = at_ns
        value = struct.pack("@4l", 0, 0, *divmod(at_ns, SECOND))
        _libc.timerfd_settime(self.fd, TIMER_ABSTIME, value, None)

    def clear(self) -> None:
        """Take in that it fired."""
        self._at = NEVER
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return
