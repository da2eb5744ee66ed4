"""Every probe, declared once: what it marks, how it is attached, what is lost without it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ("PROBES", "Probe")


class Probe(NamedTuple):
    """A point of measurement: a kernel function, or the tracepoints that stand in for it."""

    name: str
    """The name in ``trace.json``, and the ``VIA_`` macro of the BPF C."""
    phase: str
    """The phase (or figure) that it bounds."""
    functions: tuple[str, ...]
    """Kernel functions, entry and return; empty where a tracepoint is the measurement itself."""
    tracepoints: tuple[str, ...]
    """Raw tracepoints that give the same, or stand in; all of them are needed."""
    since: str
    """The first release that has the tracepoints (of the functions: FACTS are in BTF)."""
    without: str
    """What is lost without it."""
    required: bool = False


PROBES: tuple[Probe, ...] = (
    Probe("enter", "call", (), ("sys_enter",), "2.6.33", "every call", required=True),
    Probe("exit", "call", (), ("sys_exit",), "2.6.33", "every call", required=True),
    Probe("switch", "sleep", (), ("sched_switch",), "2.6.23", "sleep and runq", required=True),
    Probe("waking", "runq", (), ("sched_waking",), "4.3", "sleep apart from runq", required=True),
    Probe("fork", "threads", (), ("sched_process_fork",), "2.6.23", "new threads", required=True),
    Probe(
        "thread-exit",
        "threads",
        (),
        ("sched_process_exit",),
        "2.6.23",
        "ended threads",
        required=True,
    ),
    Probe(
        "exec", "threads", (), ("sched_process_exec",), "3.4", "threads that exec", required=True
    ),
    Probe("rename", "threads", (), ("task_rename",), "3.4", "later names of threads"),
    Probe(
        "copy",
        "copy",
        (),
        ("skb_copy_datagram_iovec", "tcp_rcv_space_adjust"),
        "4.17",
        "copy: it is then contained in overhead",
    ),
    Probe(
        "ready",
        "deliveries",
        (),
        ("sk_data_ready",),
        "6.3",
        "the moment at which data became ready",
    ),
    Probe(
        "close",
        "deliveries",
        (),
        ("inet_sock_set_state",),
        "4.16",
        "when a socket is gone",
        required=True,
    ),
)
