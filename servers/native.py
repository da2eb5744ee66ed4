"""System calls that Python has no function for, and the addresses that they want, by ctypes."""

import ctypes
import errno
import mmap
import os

__all__ = ("address_of", "system_call")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def system_call(number: int, *arguments: int) -> int:
    """Make a system call, again when a signal interrupts it; raises OSError.

    Arguments are numbers and addresses; 0 stands for NULL.
    """
    words = [ctypes.c_long(word) for word in (number, *arguments)]
    while True:
        result: int = _libc.syscall(*words)
        if result >= 0:
            return result
        if (code := ctypes.get_errno()) != errno.EINTR:
            raise OSError(code, os.strerror(code))


def address_of(buffer: bytearray | mmap.mmap) -> int:
    """Return the address of a buffer, which must live, and keep its size, while it is used."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
