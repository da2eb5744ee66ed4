"""The system calls that Python's library never makes: called by their numbers, or through glibc."""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct

__all__ = (
    "accept",
    "epoll_pwait",
    "epoll_pwait2",
    "ppoll",
    "recvmmsg",
    "select",
)

_libc = ctypes.CDLL(None, use_errno=True)
_EPOLL_PWAIT2 = 441
_SELECT = {"x86_64": 23}
_EVENT_BYTES = 16


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """``struct msghdr`` (recvmsg(2))."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vector", ctypes.POINTER(_Iovec)),
        ("vector_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """``struct mmsghdr`` (recvmmsg(2))."""

    _fields_ = (("header", _Header), ("length", ctypes.c_uint32))


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


_LONG = _Timespec(10, 0)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def select(fd: int) -> int | None:
    """Wait in select(2) itself, which glibc no longer calls; None where the machine lacks it."""
    number = _SELECT.get(platform.machine())
    if number is None:
        return None
    bits = bytearray(128)
    bits[fd // 8] |= 1 << fd % 8
    buffer = (ctypes.c_char * len(bits)).from_buffer(bits)
    return _checked(_libc.syscall(number, fd + 1, buffer, None, None, None))


def ppoll(fd: int) -> int:
    """Wait in ppoll(2)."""
    entry = ctypes.create_string_buffer(struct.pack("ihh", fd, 1, 0), 8)
    return _checked(_libc.ppoll(entry, 1, ctypes.byref(_LONG), None))


def epoll_pwait(epoll_fd: int) -> int:
    """Wait in epoll_pwait(2)."""
    events = ctypes.create_string_buffer(8 * _EVENT_BYTES)
    return _checked(_libc.epoll_pwait(epoll_fd, events, 8, -1, None))


def epoll_pwait2(epoll_fd: int) -> int:
    """Wait in epoll_pwait2(2); ENOSYS before Linux 5.11."""
    events = ctypes.create_string_buffer(8 * _EVENT_BYTES)
    return _checked(_libc.syscall(_EPOLL_PWAIT2, epoll_fd, events, 8, None, None, 8))


def accept(listener: socket.socket) -> int:
    """Take a connection by accept(2): Python's own is accept4(2)."""
    return _checked(_libc.accept(listener.fileno(), None, None))


def recvmmsg(receiver: socket.socket, messages: int, size: int) -> list[int]:
    """Receive up to so many datagrams in one call, and return their lengths."""
    buffers = [ctypes.create_string_buffer(size) for _ in range(messages)]
    vectors = [_Iovec(ctypes.addressof(buffer), size) for buffer in buffers]
    taken = (_Message * messages)()
    for message, vector in zip(taken, vectors, strict=True):
        message.header.vector = ctypes.pointer(vector)
        message.header.vector_length = 1
    waitforone = 0x10000
    count = _checked(_libc.recvmmsg(receiver.fileno(), taken, messages, waitforone, None))
    return [message.length for message in taken[:count]]
