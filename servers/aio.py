"""Native Linux AIO, as thin as can be: the system calls behind libaio, by ctypes.

io_setup(2), io_submit(2), io_getevents(2); struct iocb and io_event are in linux/aio_abi.h.
"""

import errno
import platform
import struct
import sys

from servers.native import address_of, system_call

__all__ = ("POLL", "PREAD", "Context", "missing")

PREAD = 0  # IOCB_CMD_PREAD
POLL = 5  # IOCB_CMD_POLL, since Linux 4.18

# io_setup and its relatives follow each other in every table of system calls.
SETUP = 206 if platform.machine() == "x86_64" else 0
SUBMIT, GETEVENTS = (209, 208) if platform.machine() == "x86_64" else (2, 4)

# data, key, rw_flags, opcode, reqprio, fildes, buf, nbytes, offset, reserved, flags, resfd
IOCB = struct.Struct("QIiHhIQQqQII")
EVENT = struct.Struct("QQqq")  # data, obj, res, res2

NO_TIMEOUT = 0  # NULL


class Context:
    """An AIO context of the kernel, for so many requests under way at once."""

    def __init__(self, requests: int) -> None:
        self._requests = requests
        self._events = bytearray(requests * EVENT.size)
        context = bytearray(8)
        system_call(SETUP, requests, address_of(context))
        self._id = int.from_bytes(context, sys.byteorder)

    def submit(self, operation: int, fd: int, buffer: int, size: int = 0) -> None:
        """Submit one request; `buffer` is an address, or for POLL the events."""
        request = bytearray(IOCB.pack(fd, 0, 0, operation, 0, fd, buffer, size, 0, 0, 0, 0))
        requests = bytearray(struct.pack("P", address_of(request)))
        system_call(SUBMIT, self._id, 1, address_of(requests))

    def events(self) -> list[tuple[int, int]]:
        """Wait for at least one completion; return the descriptor and the result of each."""
        found = system_call(
            GETEVENTS, self._id, 1, self._requests, address_of(self._events), NO_TIMEOUT
        )
        completed = EVENT.iter_unpack(self._events[: found * EVENT.size])
        return [(fd, result) for fd, _, result, _ in completed]


def missing() -> str | None:
    """Say what this host lacks for native AIO."""
    try:
        Context(1)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return "needs a kernel with CONFIG_AIO"
        return f"cannot set up native AIO: {error.strerror} (io_setup(2); fs.aio-max-nr)"
    return None
