"""The files of a trace: their columns and types, as SCHEMA.md documents them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = (
    "CALLS",
    "CONNECTIONS",
    "CONTEXTS",
    "CPU_PHASES",
    "DELIVERIES",
    "EVIDENCE",
    "EVIDENCE_KEYS",
    "INTERESTS",
    "OTHERS",
    "PHASES",
    "PHASE_COLUMNS",
    "SCHEMA_VERSION",
    "SOCKETS",
    "TABLES",
    "THREADS",
    "WAIT_PHASES",
    "Table",
)

SCHEMA_VERSION = 1
"""The only layout of a trace directory that there has been."""

PHASES = ("sleep", "runq", "spin", "check", "copy", "overhead")
"""The parts of a call; they add up to its duration."""
PHASE_COLUMNS = tuple(f"{phase}_ns" for phase in PHASES)
WAIT_PHASES = ("sleep", "runq", "spin", "check")
"""Stevens' first phase: waiting for the data to be ready."""
CPU_PHASES = ("spin", "check", "copy", "overhead")
"""The phases that a thread spends on a CPU."""

CONTEXTS = ("process", "iou-wrk", "iou-sqp", "task-work", "aio")
"""Who did the work of a call."""


@dataclass(frozen=True)
class Table:
    """One CSV file of a trace.

    ``columns`` maps a column to ``int32``, ``int64``, ``string`` or ``category`` (a string of
    few values); ``required`` columns have a value in every row, ``optional`` ones may be missing
    from the file: then they are unknown.
    """

    name: str
    columns: Mapping[str, str]
    required: frozenset[str]
    optional: frozenset[str] = frozenset()

    @property
    def file(self) -> str:
        """Return the file's name inside a trace directory."""
        return f"{self.name}.csv"


def _nanoseconds(columns: tuple[str, ...]) -> dict[str, str]:
    return dict.fromkeys(columns, "int64")


INTERESTS = ("epoll_level", "epoll_edge", "epoll_oneshot", "sigio_sockets")
"""How often a thread asked to be told of a socket, and how."""

_OF_FUNCTION_PROBES = ("check_copy_ns", "function_ns")

CALLS = Table(
    "calls",
    {
        "ts_ns": "int64",
        "duration_ns": "int64",
        "cpu": "int32",
        "pid": "int32",
        "tid": "int32",
        "comm": "category",
        "context": "category",
        "call": "category",
        "fd": "int32",
        "socket": "int64",
        "nfds": "int32",
        "ready": "int32",
        "result": "int64",
        "bytes": "int64",
        **_nanoseconds((*PHASE_COLUMNS, *_OF_FUNCTION_PROBES)),
    },
    frozenset({"ts_ns", "duration_ns", "pid", "tid", "context", "call"}),
    frozenset(_OF_FUNCTION_PROBES),
)

DELIVERIES = Table(
    "deliveries",
    {
        "socket": "int64",
        "fd": "int32",
        "pid": "int32",
        "tid": "int32",
        "ready_ns": "int64",
        "noticed_ns": "int64",
        "copied_ns": "int64",
        "bytes": "int64",
        "notify_ns": "int64",
        "waker_context": "category",
        "notifier": "category",
        "callback_ns": "int64",
    },
    frozenset({"pid", "tid"}),
    frozenset({"notifier", "callback_ns"}),
)

THREADS = Table(
    "threads",
    {
        "pid": "int32",
        "tid": "int32",
        "comm": "category",
        "role": "category",
        "model": "category",
        **_nanoseconds(("wall_ns", "user_ns", *PHASE_COLUMNS)),
        **_nanoseconds(("other_calls_ns", "off_cpu_elsewhere_ns")),
        "calls": "int64",
        "bytes": "int64",
        "voluntary_switches": "int64",
        "involuntary_switches": "int64",
        **dict.fromkeys(INTERESTS, "int32"),
    },
    frozenset({"pid", "tid", "wall_ns"}),
    frozenset(INTERESTS),
)

SOCKETS = Table(
    "sockets",
    {
        "socket": "int64",
        "family": "category",
        "protocol": "category",
        "local": "string",
        "remote": "string",
    },
    frozenset({"socket"}),
)

OTHERS = 0
"""The thread, or the socket, that stands for all that were joined, where there were very many."""

EVIDENCE_KEYS = ("pid", "tid", "context", "call")

EVIDENCE = Table(
    "evidence",
    {
        "pid": "int32",
        "tid": "int32",
        "context": "category",
        "call": "category",
        **dict.fromkeys(("calls", "slept", "again", "drained", "reported", "empty"), "int64"),
        **dict.fromkeys(("unfinished", "received", "bytes", "single", "nfds_max"), "int64"),
        **_nanoseconds(("duration_ns", *PHASE_COLUMNS)),
    },
    frozenset({"pid", "tid", "context", "call", "calls"}),
)
"""What each thread did with each call, added up; the calls of a recording without rows."""

CONNECTIONS = Table(
    "connections",
    {
        "socket": "int64",
        "pid": "int32",
        "family": "category",
        "protocol": "category",
        "local": "string",
        "remote": "string",
        "calls": "int64",
        "bytes": "int64",
        **_nanoseconds(("wait_ns", "copy_ns")),
        "deliveries": "int64",
        **_nanoseconds(("delivery_p50_ns", "delivery_p99_ns", "delivery_max_ns")),
        **_nanoseconds(("longest_ready_ns",)),
    },
    frozenset({"socket"}),
)
"""One row per socket that was received from."""

TABLES = (CALLS, DELIVERIES, THREADS, SOCKETS)
