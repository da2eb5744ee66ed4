"""Every probe, declared once: what it measures, what can stand in for it, what is lost without it.

A function probe is attached by fentry and fexit, or by kprobe and kretprobe; where the kernel
allows neither, tracepoints stand in if there are any. A name that is not there (renamed, inlined,
made a ``.constprop`` clone) costs only its own figure.
"""

from __future__ import annotations

import platform
from typing import NamedTuple

__all__ = ("FUNCTIONS", "TRACEPOINTS", "Function", "Tracepoint", "system_call_symbol")


class Tracepoint(NamedTuple):
    """A raw tracepoint; ``required`` ones are the frame of every measurement."""

    name: str
    phase: str
    """The phase, or the figure, that it bounds."""
    since: str
    without: str
    """What is lost without it."""
    required: bool = False
    stand_in: tuple[str, ...] = ()
    """The tracepoints that give the same less exactly, where this one is missing."""
    only_submits: bool = False
    """Whether nobody needs it but programs that use io_uring or native AIO."""


class Function(NamedTuple):
    """A kernel function, traced at its entry, at its return, or both."""

    name: str
    """The symbol, or the macro of a system call's entry (see ``system_call_symbol``)."""
    phase: str
    since: str
    """The first supported kernel in which it can be attached."""
    without: str
    stand_in: tuple[str, ...] = ()
    """The tracepoints that give the same less exactly; all of them are needed."""
    at_entry: bool = True
    at_return: bool = True


def system_call_symbol(name: str, machine: str | None = None) -> str:
    """Return the symbol of a system call's entry, such as ``__x64_sys_select``.

    arch/x86/include/asm/syscall_wrapper.h, arch/arm64/include/asm/syscall_wrapper.h.
    """
    prefix = {"x86_64": "x64", "aarch64": "arm64"}[machine or platform.machine()]
    return f"__{prefix}_sys_{name}"


TRACEPOINTS: tuple[Tracepoint, ...] = (
    Tracepoint("sys_enter", "call", "2.6.33", "every call", required=True),
    Tracepoint("sys_exit", "call", "2.6.33", "every call", required=True),
    Tracepoint("sched_switch", "sleep", "2.6.23", "sleep and runq", required=True),
    Tracepoint("sched_waking", "runq", "4.3", "sleep apart from runq", required=True),
    Tracepoint("task_newtask", "threads", "3.4", "new threads", required=True),
    Tracepoint("sched_process_exit", "threads", "2.6.23", "ended threads", required=True),
    Tracepoint("sched_process_exec", "threads", "3.4", "threads that exec", required=True),
    Tracepoint("task_rename", "threads", "3.4", "later names of threads"),
    Tracepoint("inet_sock_set_state", "deliveries", "4.16", "what connects", required=True),
    Tracepoint("tcp_destroy_sock", "deliveries", "4.16", "the end of a socket", required=True),
    Tracepoint("skb_copy_datagram_iovec", "copy", "2.6.32", "copy: overhead contains it"),
    Tracepoint("tcp_rcv_space_adjust", "copy", "4.17", "copy: overhead contains it"),
    Tracepoint(
        "sk_data_ready", "deliveries", "6.3", "when data became ready", stand_in=("tcp_probe",)
    ),
    Tracepoint(
        "sock_recv_length",
        "deliveries",
        "6.3",
        "what io_uring and native AIO receive over UDP and unix sockets",
        only_submits=True,
    ),
    Tracepoint("tcp_probe", "deliveries", "4.16", "when TCP segments came in"),
)

FUNCTIONS: tuple[Function, ...] = (
    Function(
        "skb_copy_datagram_iter",
        "copy",
        "5.10",
        "the exact end of a copy; of UDP and unix sockets any copy",
        stand_in=("skb_copy_datagram_iovec",),
    ),
    Function(
        "sock_def_readable",
        "notify",
        "5.10",
        "what telling the receiver cost",
        stand_in=("sk_data_ready",),
    ),
    Function("ep_poll_callback", "notify", "5.10", "how much of that was epoll's callback"),
    Function("pollwake", "notify", "5.10", "how much of that was select's and poll's callback"),
    Function("io_poll_wake", "notify", "5.10", "how much of that was io_uring's callback"),
    Function("aio_poll_wake", "notify", "5.10", "how much of that was native AIO's callback"),
    Function("send_sigio", "notify", "5.10", "how much of that was sending SIGIO"),
    Function("SYS_SELECT", "call", "5.10", "how often select was called", at_return=False),
    Function("SYS_PSELECT6", "call", "5.10", "how often pselect6 was called", at_return=False),
    Function("core_sys_select", "check", "5.10", "check of select apart from entry and exit"),
    Function("do_select", "check", "5.10", "the scan apart from copying the sets"),
    Function("do_sys_poll", "check", "5.10", "check of poll apart from entry and exit"),
    Function("do_epoll_wait", "check", "5.10", "check of epoll apart from entry and exit"),
    Function("read_events", "check", "5.10", "check of io_getevents apart from entry and exit"),
    Function("ep_send_events", "check", "6.18", "moving the ready list apart from the rest"),
    Function("sk_wait_data", "check", "5.10", "hanging on a socket's wait queue"),
    Function("tcp_recvmsg", "function", "5.10", "the time inside TCP's receive"),
    Function("udp_recvmsg", "function", "5.10", "the time inside UDP's receive"),
    Function("udpv6_recvmsg", "function", "5.10", "the time inside UDP's receive over IPv6"),
    Function("unix_stream_recvmsg", "function", "5.10", "the time inside a stream's receive"),
    Function("unix_dgram_recvmsg", "function", "5.10", "the time inside a datagram's receive"),
    Function("__skb_recv_udp", "copy", "5.10", "copies of small datagrams", at_entry=False),
    Function("skb_consume_udp", "copy", "5.10", "copies of small datagrams", at_return=False),
)
