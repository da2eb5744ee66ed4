"""The system calls of the receive path, and what each is for.

The numbers are those of ``arch/x86/entry/syscalls/syscall_64.tbl`` and of
``include/uapi/asm-generic/unistd.h`` (arm64); None where an architecture does not have the call.
"""

from __future__ import annotations

import platform
from typing import Literal, NamedTuple

__all__ = ("CALLS", "CALL_NAMES", "TOUCHES", "Call", "Touch", "number_defines", "numbers")

Kind = Literal["receive", "wait", "signal", "accept", "submit"]


class Call(NamedTuple):
    """A row of ``calls.csv``; the index of the call in ``CALLS`` is the record's ``call``.

    The C relies on the order of the kinds: receive, wait and signal, accept, submit.
    """

    name: str
    kind: Kind
    x86_64: int | None
    aarch64: int | None


CALLS: tuple[Call, ...] = (
    Call("read", "receive", 0, 63),
    Call("readv", "receive", 19, 65),
    Call("recvfrom", "receive", 45, 207),
    Call("recvmsg", "receive", 47, 212),
    Call("recvmmsg", "receive", 299, 243),
    Call("select", "wait", 23, None),
    Call("pselect6", "wait", 270, 72),
    Call("poll", "wait", 7, None),
    Call("ppoll", "wait", 271, 73),
    Call("epoll_wait", "wait", 232, None),
    Call("epoll_pwait", "wait", 281, 22),
    Call("epoll_pwait2", "wait", 441, 441),
    Call("io_getevents", "wait", 208, 4),
    Call("io_pgetevents", "wait", 333, 292),
    Call("rt_sigtimedwait", "signal", 128, 137),
    Call("rt_sigsuspend", "signal", 130, 133),
    Call("pause", "signal", 34, None),
    Call("accept", "accept", 43, 202),
    Call("accept4", "accept", 288, 242),
    Call("io_submit", "submit", 209, 2),
    Call("io_uring_enter", "submit", 426, 426),
    Call("io_uring", "submit", None, None),
)
"""``io_uring`` is no system call: a receive that the kernel does outside any call of the thread,
in task work, in a worker, or in the SQPOLL thread. A ``signal`` call waits for a signal."""

CALL_NAMES: tuple[str, ...] = tuple(call.name for call in CALLS)


class Touch(NamedTuple):
    """A system call that names a socket before data can arrive on it; it is not recorded itself."""

    name: str
    descriptor_argument: int
    """Which argument is the descriptor, from 1."""
    x86_64: int
    aarch64: int


TOUCHES: tuple[Touch, ...] = (
    Touch("connect", 1, 42, 203),
    Touch("listen", 1, 50, 201),
    Touch("epoll_ctl", 3, 233, 21),
    Touch("pread64", 1, 17, 67),
    Touch("fcntl", 1, 72, 25),
    Touch("ioctl", 1, 16, 29),
)


def _known() -> list[Call | Touch]:
    return [*CALLS, *TOUCHES]


def numbers(machine: str | None = None) -> dict[str, int]:
    """Return the system-call numbers by name on ``machine`` (``uname -m``; default: this one).

    Raises ``KeyError`` for an architecture that is not in the tables.
    """
    machine = machine or platform.machine()
    if machine not in ("x86_64", "aarch64"):
        raise KeyError(f"no system-call numbers are known for {machine}")
    everything = {call.name: getattr(call, machine) for call in _known()}
    return {name: number for name, number in everything.items() if number is not None}


def number_defines(machine: str | None = None) -> list[str]:
    """Return ``-DNR_name=number`` and ``-DCALL_name=index`` for the compiler.

    A call that the architecture lacks gets a number that no system call has.
    """
    known = numbers(machine)
    missing = iter(range(100_000, 200_000))
    names = [call.name for call in _known()]
    flags = [f"-DNR_{name}={known.get(name) if name in known else next(missing)}" for name in names]
    return flags + [f"-DCALL_{name}={index}" for index, name in enumerate(CALL_NAMES)]
