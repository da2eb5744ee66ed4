"""Which probe is attached by which backend: found by trying; a value to print and compare.

Nothing is attached for it: fentry is tried function by function with a program that does nothing,
which is loaded and thrown away; a kprobe needs a kernel that gives some, and the function.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Literal, NamedTuple

from probes import btf, syscall
from probes.catalogue import FUNCTIONS, TRACEPOINTS, Function, Tracepoint, system_call_symbol
from probes.errors import ProbeError

__all__ = (
    "BACKENDS",
    "Backend",
    "Plan",
    "Step",
    "has_tracepoint",
    "instead_of",
    "make_plan",
    "refusals",
    "symbol_of",
)

Backend = Literal["fentry", "kprobe", "tracepoint"]

BACKENDS: tuple[Backend, ...] = ("fentry", "kprobe", "tracepoint")
"""Best first."""

_KPROBE_TYPE = Path("/sys/bus/event_source/devices/kprobe/type")
_TRIAL_FUNCTION = "tcp_recvmsg"
"""A function of every kernel with TCP, to try whether fentry is allowed at all."""


class Step(NamedTuple):
    """One probe of a plan: by which backends, best first, and why not by a better one."""

    probe: Tracepoint | Function
    symbol: str
    backends: tuple[Backend, ...]
    detail: str


class Plan(NamedTuple):
    """What would be attached, probe by probe."""

    steps: tuple[Step, ...]
    refused: dict[Backend, str]
    """Backends that this host refuses altogether, with its reason."""
    forced: Backend | None = None
    """The only one that functions may be attached by, by the user's wish."""

    @property
    def best(self) -> Backend:
        """The best backend that any probe will try."""
        tried = {step.backends[0] for step in self.steps if step.backends}
        return next((backend for backend in BACKENDS if backend in tried), "tracepoint")


def symbol_of(function: Function) -> str:
    """Return the symbol that a function probe is attached to on this machine."""
    if function.name.startswith("SYS_"):
        return system_call_symbol(function.name.removeprefix("SYS_").lower())
    return function.name


def refusals() -> dict[Backend, str]:
    """Try what this host allows; return the reason for each backend that it refuses."""
    refused: dict[Backend, str] = {}
    if (reason := _fentry_refusal()) is not None:
        refused["fentry"] = reason
    if (reason := _kprobe_refusal()) is not None:
        refused["kprobe"] = reason
    return refused


def _fentry_refusal(symbol: str = _TRIAL_FUNCTION) -> str | None:
    """Load a program that does nothing; return why the kernel does not take it."""
    found = btf.load().find(btf.Kind.FUNC, symbol)
    if not found:
        return f"BTF does not describe {symbol}"
    try:
        os.close(syscall.load_fentry(found[0]))
    except OSError as error:
        return f"{symbol} refused by this kernel: {error.strerror}"
    return None


def _kprobe_refusal() -> str | None:
    """Return why no function gets a kprobe; a container may be refused perf events, but not BPF."""
    try:
        syscall.try_kprobe(int(_KPROBE_TYPE.read_text()))
    except FileNotFoundError:
        return "no function has one: this kernel is built without kprobes"
    except OSError as error:
        return f"no function gets one: perf_event_open: {error.strerror}"
    return None


def instead_of(forced: Backend, refused: Collection[Backend]) -> str:
    """Say which backend would do where the forced one does not."""
    other = next(backend for backend in BACKENDS if backend not in (forced, *refused))
    return f"use --backend {other}"


def make_plan(force: Backend | None = None, *, submits: bool = True) -> Plan:
    """Return the attach plan of this host; ``force`` allows one backend for functions.

    ``submits`` says whether a target may ask the kernel to receive by itself, by io_uring or native
    AIO: what only they need costs the others, too. Raises ``ProbeError`` when the forced backend is
    refused, and names the one that would do.
    """
    refused = refusals()
    allowed = [backend for backend in BACKENDS[:2] if backend not in refused]
    if force == "tracepoint":
        allowed = []
    elif force is not None:
        if force in refused:
            raise ProbeError(f"{force}: {refused[force]}; {instead_of(force, refused)}")
        allowed = [force]
    none = "; ".join(f"{backend}: {reason}" for backend, reason in refused.items())
    if force == "tracepoint":
        none = "not wanted: --backend tracepoint"
    functions = [_function_step(function, allowed, none) for function in FUNCTIONS]
    tracepoints = [_tracepoint_step(point, submits) for point in TRACEPOINTS]
    return Plan((*tracepoints, *functions), refused, force)


def _tracepoint_step(point: Tracepoint, submits: bool) -> Step:
    better = [other.name for other in TRACEPOINTS if point.name in other.stand_in]
    detail = ""
    if point.only_submits and not submits:
        detail = "not needed: no target used io_uring or native AIO when tracing began"
    elif any(map(has_tracepoint, better)):
        detail = f"not needed: this kernel has {better[0]}"
    return Step(point, point.name, () if detail else ("tracepoint",), detail)


def has_tracepoint(name: str) -> bool:
    """Look for the type that every raw tracepoint has in BTF (include/trace/bpf_probe.h)."""
    return bool(btf.load().find(btf.Kind.TYPEDEF, f"btf_trace_{name}"))


def _function_step(function: Function, allowed: list[Backend], none: str) -> Step:
    """Plan for a function; ``none`` says why it cannot be attached where no backend is allowed."""
    symbol = symbol_of(function)
    if not allowed:
        return Step(function, symbol, (), none)
    if not btf.load().has_function(symbol):
        return Step(function, symbol, (), "this kernel has no such function")
    if allowed[0] == "fentry" and (reason := _fentry_refusal(symbol)) is not None:
        return Step(function, symbol, tuple(allowed[1:]), f"fentry: {reason}")
    return Step(function, symbol, tuple(allowed[:1]), "")
