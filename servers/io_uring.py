"""io_uring, as thin as can be: two rings shared with the kernel, and three system calls by ctypes.

io_uring(7), io_uring_setup(2), io_uring_enter(2), io_uring_register(2); linux/io_uring.h
"""

import contextlib
import errno
import mmap
import os
import socket
import struct
from typing import NamedTuple

from servers.native import address_of, system_call

__all__ = (
    "ACCEPT",
    "CANCEL",
    "POLL_ADD",
    "RECV",
    "RECVMSG",
    "SEND",
    "SENDMSG",
    "Buffers",
    "Completion",
    "Datagram",
    "Ring",
    "missing",
    "missing_multishot",
    "missing_sqpoll",
    "missing_workers",
)

# Operations (enum io_uring_op).
POLL_ADD, SENDMSG, RECVMSG, ACCEPT, CANCEL, SEND, RECV = 6, 9, 10, 13, 14, 26, 27
# Flags of a submission (io_uring_sqe.flags and .ioprio).
ASYNC = 1 << 4
BUFFER_SELECT = 1 << 5
ACCEPT_MULTISHOT = 1 << 0
RECV_MULTISHOT = 1 << 1
# Flags of a completion (io_uring_cqe.flags).
COMES_WITH_BUFFER = 1 << 0
MORE_TO_COME = 1 << 1

SETUP, ENTER, REGISTER = 425, 426, 427  # the same on every architecture
SETUP_SQPOLL = 1 << 1
FEATURE_FAST_POLL = 1 << 5  # Linux 5.7: a receive without data waits without a worker thread
FEATURE_SQPOLL_ANY_FILE = 1 << 7  # Linux 5.11
# Linux 6.3, and so is 6bb30855560e: what a worker had to wait for, a worker takes up again.
FEATURE_REGISTERED_RING = 1 << 13
ENTER_GETEVENTS = 1 << 0
ENTER_SQ_WAKEUP = 1 << 1
ENTER_SQ_WAIT = 1 << 2
REGISTER_BUFFER_RING = 22
MAP_RINGS, MAP_SUBMISSIONS = 0, 0x10000000

ENTRIES = 256  # submissions prepared at once at most; when they are full, they are submitted

# struct io_uring_params: entries of both rings, flags, sq_thread_cpu, sq_thread_idle, features,
# wq_fd, then where the fields of the two rings lie.
PARAMS = struct.Struct("7I12x10I10I")
# opcode, flags, ioprio, fd, off, addr, len, operation's flags, user_data, buf_group
SUBMISSION = struct.Struct("BBHiQQIIQH22x")
COMPLETION = struct.Struct("QiI")  # user_data, result, flags
BUFFER = struct.Struct("QIH")  # address, length, identifier; two bytes more follow
BUFFER_RING = struct.Struct("QIHH24x")  # address, entries, group, flags

# struct msghdr: name and its length, vector and its entries, control and its length, flags.
MESSAGE = struct.Struct("PIPNPNi4x")
VECTOR = struct.Struct("PN")  # struct iovec: address, length
LONGEST_NAME = 128  # struct sockaddr_storage, of whatever family


class Completion(NamedTuple):
    """What became of a request: the operation's return value, or minus its error number."""

    operation: int
    fd: int
    result: int
    flags: int

    @property
    def more(self) -> bool:
        """Say whether the request goes on, and will complete again."""
        return bool(self.flags & MORE_TO_COME)


class Ring:
    """A submission ring and its completion ring.

    Fields are read and written in program order, as x86 has it; a system call is a barrier.
    """

    def __init__(self, flags: int = 0, idle_ms: int = 0) -> None:
        params = bytearray(PARAMS.pack(0, 0, flags, 0, idle_ms, *[0] * 22))
        self.fd = system_call(SETUP, ENTRIES, address_of(params))
        entries, completions, _, _, _, self.features, _, *offsets = PARAMS.unpack(params)
        sq_head, sq_tail, _, _, _, _, sq_array, *_ = offsets[:10]
        cq_head, cq_tail, _, _, _, cqes, *_ = offsets[10:]

        size = max(sq_array + entries * 4, cqes + completions * COMPLETION.size)
        self._rings = mmap.mmap(self.fd, size, offset=MAP_RINGS)
        self._submissions = mmap.mmap(self.fd, entries * SUBMISSION.size, offset=MAP_SUBMISSIONS)
        self._words = memoryview(self._rings).cast("I")
        self._sq_head, self._sq_tail = sq_head // 4, sq_tail // 4
        self._cq_head, self._cq_tail = cq_head // 4, cq_tail // 4
        self._cqes, self._cq_mask, self._sq_mask = cqes, completions - 1, entries - 1
        self._words[sq_array // 4 : sq_array // 4 + entries] = memoryview(
            struct.pack(f"{entries}I", *range(entries))
        ).cast("I")
        self._polled = bool(flags & SETUP_SQPOLL)
        self._prepared = 0  # and not yet submitted

    def prepare(
        self,
        operation: int,
        fd: int,
        address: int = 0,
        size: int = 0,
        *,
        flags: int = 0,
        priority: int = 0,
        operation_flags: int = 0,
    ) -> None:
        """Put a request into the submission ring; a poller thread, if any, may start it at once."""
        tail = self._words[self._sq_tail]
        if (tail - self._words[self._sq_head]) & 0xFFFFFFFF > self._sq_mask:
            self._enter(ENTER_SQ_WAKEUP | ENTER_SQ_WAIT if self._polled else 0)
        SUBMISSION.pack_into(
            self._submissions,
            (tail & self._sq_mask) * SUBMISSION.size,
            operation,
            flags,
            priority,
            fd,
            0,
            address,
            size,
            operation_flags,
            _tag(operation, fd),
            0,
        )
        self._words[self._sq_tail] = (tail + 1) & 0xFFFFFFFF
        self._prepared += 1

    def cancel(self, operation: int, fd: int) -> None:
        """Prepare to cancel the request for this operation on this descriptor."""
        self.prepare(CANCEL, -1, _tag(operation, fd))

    def wait(self) -> list[Completion]:
        """Submit what is prepared, wait until something is complete, and return what is."""
        if self._polled:
            if self._words[self._cq_head] == self._words[self._cq_tail]:
                self._enter(ENTER_GETEVENTS | ENTER_SQ_WAKEUP, 1)
        else:
            self._enter(ENTER_GETEVENTS, 1)
        head, tail = self._words[self._cq_head], self._words[self._cq_tail]
        completed = []
        while head != tail:
            place = self._cqes + (head & self._cq_mask) * COMPLETION.size
            tag, result, flags = COMPLETION.unpack_from(self._rings, place)
            completed.append(Completion(tag >> 32, tag & 0xFFFFFFFF, result, flags))
            head = (head + 1) & 0xFFFFFFFF
        self._words[self._cq_head] = head
        return completed

    def close(self) -> None:
        """Give the ring back to the kernel."""
        os.close(self.fd)

    def _enter(self, flags: int, completions: int = 0) -> None:
        try:
            submitted = system_call(ENTER, self.fd, self._prepared, completions, flags, 0, 0)
        except OSError as error:
            # EBUSY and EAGAIN: completions are to be taken first.
            if error.errno not in (errno.EBUSY, errno.EAGAIN):
                raise
        else:
            self._prepared -= submitted


class Buffers:
    """Buffers provided to the kernel, which picks one only when data is there to fill it."""

    def __init__(self, ring: Ring, count: int, size: int) -> None:
        self._count, self._size = count, size  # count: a power of 2
        self._memory = mmap.mmap(-1, count * size, flags=mmap.MAP_PRIVATE)
        self._ring = mmap.mmap(-1, count * 16, flags=mmap.MAP_PRIVATE)
        self._start = address_of(self._memory)
        self._tail = 0
        request = bytearray(BUFFER_RING.pack(address_of(self._ring), count, 0, 0))
        system_call(REGISTER, ring.fd, REGISTER_BUFFER_RING, address_of(request), 1)
        for identifier in range(count):
            self._give(identifier)

    def take(self, completion: Completion) -> bytes:
        """Return what a receive put into a buffer, and give the buffer back."""
        identifier = completion.flags >> 16
        start = identifier * self._size
        data = self._memory[start : start + completion.result]
        self._give(identifier)
        return data

    def _give(self, identifier: int) -> None:
        place = (self._tail & (self._count - 1)) * 16
        address = self._start + identifier * self._size
        BUFFER.pack_into(self._ring, place, address, self._size, identifier)
        self._tail = (self._tail + 1) & 0xFFFF
        struct.pack_into("H", self._ring, 14, self._tail)  # the ring's tail lies in its first entry


class Datagram:
    """A datagram and who sent it, in a struct msghdr as recvmsg(2) and sendmsg(2) take it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.data = bytearray(size)
        self._name = bytearray(LONGEST_NAME)
        self._vector = bytearray(VECTOR.size)
        self._message = bytearray(MESSAGE.size)
        self.address = address_of(self._message)

    def make_room(self) -> None:
        """Be ready for a datagram of any size and any sender."""
        VECTOR.pack_into(self._vector, 0, address_of(self.data), self.size)
        name, vector = address_of(self._name), address_of(self._vector)
        MESSAGE.pack_into(self._message, 0, name, LONGEST_NAME, vector, 1, 0, 0, 0)

    def put(self, answer: bytes) -> None:
        """Hold an answer for the sender of what was received."""
        self.data[: len(answer)] = answer
        VECTOR.pack_into(self._vector, 0, address_of(self.data), len(answer))


def _tag(operation: int, fd: int) -> int:
    """Return the user data by which a completion is known."""
    return (operation << 32) | (fd & 0xFFFFFFFF)


def missing() -> str | None:
    """Say what this host lacks for receiving by io_uring."""
    try:
        with contextlib.closing(Ring()) as ring:
            if not ring.features & FEATURE_FAST_POLL:
                return "needs Linux 5.7"
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return "needs Linux 5.7, with io_uring"
        if error.errno == errno.EPERM:
            return "io_uring is forbidden here: see sysctl kernel.io_uring_disabled, and seccomp"
        return f"cannot set up io_uring: {error.strerror}; see ulimit -l"
    return None


def missing_sqpoll() -> str | None:
    """Say what this host lacks for a poller thread that serves any descriptor."""
    if (reason := missing()) is not None:
        return reason
    try:
        with contextlib.closing(Ring(SETUP_SQPOLL)) as ring:
            if ring.features & FEATURE_SQPOLL_ANY_FILE:
                return None
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
    return "needs Linux 5.11"


def missing_workers() -> str | None:
    """Say what this host lacks for workers that receive: before, they only asked once."""
    if (reason := missing()) is not None:
        return reason
    with contextlib.closing(Ring()) as ring:
        return None if ring.features & FEATURE_REGISTERED_RING else "needs Linux 6.3"


def missing_multishot() -> str | None:
    """Say what this host lacks for multishot receives, by trying one."""
    if (reason := missing()) is not None:
        return reason
    receiver, sender = socket.socketpair()
    with receiver, sender, contextlib.closing(Ring()) as ring:
        sender.send(b"x")
        try:
            buffers = Buffers(ring, 1, 16)
        except OSError:
            return "needs Linux 6.0"
        ring.prepare(RECV, receiver.fileno(), flags=BUFFER_SELECT, priority=RECV_MULTISHOT)
        received = ring.wait()[0]
        return None if received.more and buffers.take(received) == b"x" else "needs Linux 6.0"
