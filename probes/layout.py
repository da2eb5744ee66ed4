"""The records that the BPF programs write: C structs and numpy dtypes from one definition.

Every record in the ring buffer has the same size and begins with the same head, so that user space
can map the ring as one strided array and split it by ``kind`` afterwards. A field that means a time
is in nanoseconds of ``CLOCK_MONOTONIC``; an unknown value is marked by a flag, never by a number.
"""

from __future__ import annotations

import numpy as np

__all__ = (
    "CALL",
    "CONTEXT_NAMES",
    "FLAGS",
    "KINDS",
    "NAME",
    "NOTIFIER_NAMES",
    "RECORD_SIZE",
    "SOCKET",
    "THREAD",
    "WAKER_NAMES",
    "c_definitions",
)

Field = tuple[str, str]
"""A field's name and its C type; ``char[16]`` and ``u8[16]`` are arrays."""

_C_TO_NUMPY = {
    "u8": "<u1",
    "u16": "<u2",
    "u32": "<u4",
    "u64": "<u8",
    "s32": "<i4",
    "s64": "<i8",
    "char[16]": "S16",
    "u8[16]": "V16",
}

KINDS = {"CALL": 1, "DELIVERY": 2, "THREAD": 3, "NAME": 4, "SOCKET": 5}
"""What a record is: a finished call, a further delivery of a call, a thread's ledger, a thread's
name, a socket's addresses."""

FLAGS = {
    "DELIVERED": 1,  # the call carries a delivery: ready ... waker are valid
    "COPY_UNKNOWN": 2,  # payload was copied, but no probe saw how long it took
    "UNFINISHED": 4,  # the call was still running when tracing stopped: no result
    "BEGUN_BEFORE": 8,  # the call was running when tracing began: ts is that moment
    "BYTES_UNKNOWN": 16,  # payload was received, but not how much
    "NOTIFY_KNOWN": 32,  # notify_ns was measured
    "CHECK_SPLIT": 64,  # check_copy was measured: moving the sets in and out
    "READY_UNKNOWN": 128,  # the delivery's data was ready before its socket was first seen
}

CONTEXT_NAMES = ("process", "iou-wrk", "iou-sqp", "task-work", "aio")
"""Who did the work of a call; the index is the record's ``context``."""

NOTIFIER_NAMES = (
    *("none", "ep_poll_callback", "pollwake"),
    *("io_poll_wake", "aio_poll_wake", "send_sigio"),
)
"""The callback that told the receiver; the index is the record's ``notifier``. With ``none`` a
thread that slept in a receive was woken, or nobody waited."""

WAKER_NAMES = ("process", "softirq", "ksoftirqd", "worker", "self")
"""Where the data became ready; the index is the record's ``waker``."""

_HEAD: tuple[Field, ...] = (
    ("ts", "u64"),
    ("pid", "u32"),
    ("tid", "u32"),
    ("kind", "u8"),
    ("call", "u8"),
    ("context", "u8"),
    ("flags", "u8"),
    ("cpu", "u16"),
    ("waker", "u8"),
    ("notifier", "u8"),
)

_CALL: tuple[Field, ...] = (
    ("duration", "u64"),
    ("socket", "u64"),
    ("sleep", "u64"),
    ("runq", "u64"),
    ("spin", "u64"),
    ("check", "u64"),
    ("copy", "u64"),
    ("ready", "u64"),
    ("noticed", "u64"),
    ("copied", "u64"),
    ("fd", "s32"),
    ("nfds", "u32"),
    ("result", "s32"),
    ("bytes", "u32"),
    ("delivered", "u32"),
    ("notify", "u32"),
    ("check_copy", "u32"),
    ("callback", "u32"),
    ("function", "u64"),
)

_THREAD: tuple[Field, ...] = (
    ("wall", "u64"),
    ("user", "u64"),
    ("sleep", "u64"),
    ("runq", "u64"),
    ("spin", "u64"),
    ("check", "u64"),
    ("copy", "u64"),
    ("overhead", "u64"),
    ("other_calls", "u64"),
    ("off_cpu_elsewhere", "u64"),
    ("calls", "u64"),
    ("bytes", "u64"),
    ("voluntary_switches", "u64"),
    ("involuntary_switches", "u32"),
    ("epoll_level", "u16"),
    ("epoll_edge", "u16"),
    ("epoll_oneshot", "u16"),
    ("sigio_sockets", "u16"),
    ("role", "u32"),
)

_NAME: tuple[Field, ...] = (("comm", "char[16]"),)

_SOCKET: tuple[Field, ...] = (
    ("socket", "u64"),
    ("family", "u16"),
    ("protocol", "u16"),
    ("local_port", "u16"),
    ("remote_port", "u16"),
    ("local_address", "u8[16]"),
    ("remote_address", "u8[16]"),
)

_BODIES: dict[str, tuple[Field, ...]] = {
    "call_record": _CALL,
    "thread_record": _THREAD,
    "name_record": _NAME,
    "socket_record": _SOCKET,
}


def _itemsize(fields: tuple[Field, ...]) -> int:
    return sum(np.dtype(_C_TO_NUMPY[c_type]).itemsize for _, c_type in fields)


RECORD_SIZE = _itemsize(_HEAD) + max(_itemsize(body) for body in _BODIES.values())
"""Bytes of every record; a multiple of 8, as the ring buffer wants it."""


def _padding(body: tuple[Field, ...]) -> int:
    return RECORD_SIZE - _itemsize(_HEAD) - _itemsize(body)


def _dtype(body: tuple[Field, ...]) -> np.dtype[np.void]:
    return np.dtype(
        {
            "names": [name for name, _ in _HEAD + body],
            "formats": [_C_TO_NUMPY[c_type] for _, c_type in _HEAD + body],
            "itemsize": RECORD_SIZE,
        }
    )


CALL = _dtype(_CALL)
"""A CALL or a DELIVERY record."""
THREAD = _dtype(_THREAD)
"""A THREAD record: the ledger of a thread; ``ts`` is when it began to be traced."""
NAME = _dtype(_NAME)
"""A NAME record: from ``ts`` on the thread is called ``comm``."""
SOCKET = _dtype(_SOCKET)
"""A SOCKET record: the addresses in network byte order, IPv4 in the first four bytes."""


def _c_struct(name: str, body: tuple[Field, ...]) -> str:
    lines = [f"struct {name} {{"]
    for field, c_type in _HEAD + body:
        base, _, count = c_type.partition("[")
        lines.append(f"    {base} {field}{'[' + count if count else ''};")
    if padding := _padding(body):
        lines.append(f"    u8 padding[{padding}];")
    lines.append("};")
    lines.append(f'_Static_assert(sizeof(struct {name}) == {RECORD_SIZE}, "{name}");')
    return "\n".join(lines)


def c_definitions() -> str:
    """Return the C text of the structs and of the constants, for ``-include``."""
    constants = [f"#define KIND_{name} {value}" for name, value in KINDS.items()]
    constants += [f"#define FLAG_{name} {value}" for name, value in FLAGS.items()]
    constants += [
        f"#define CONTEXT_{name.upper().replace('-', '_')} {index}"
        for index, name in enumerate(CONTEXT_NAMES)
    ]
    constants += [
        f"#define NOTIFIER_{name.upper()} {index}" for index, name in enumerate(NOTIFIER_NAMES)
    ]
    constants += [f"#define WAKER_{name.upper()} {index}" for index, name in enumerate(WAKER_NAMES)]
    structs = [_c_struct(name, body) for name, body in _BODIES.items()]
    return "\n".join(constants + structs) + "\n"
