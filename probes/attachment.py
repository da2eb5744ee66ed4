"""Carries out an attach plan: each probe by the first of its backends that works."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from probes.catalogue import Function, Tracepoint
from probes.compiler import load_function, quietly
from probes.errors import ProbeError
from probes.kernel_calls import preemptible_tracepoints, resolve
from probes.plan import Backend, Plan, Step, instead_of

__all__ = ("Attached", "attach", "detach", "load")


_ATTACHED_TWICE = ("sys_enter", "sys_exit")


class Attached(NamedTuple):
    """What became of a probe: ``backend`` is None where it is not attached, ``detail`` says why."""

    symbol: str
    phase: str
    backend: Backend | None
    detail: str


def attach(bpf: Any, plan: Plan) -> list[Attached]:
    """Attach what the plan says to a compiled program, functions first.

    A tracepoint that only stands in for a function is left out where the function is attached.
    Raises ``ProbeError`` when a required probe cannot be attached, or no function by the backend
    that was forced.
    """
    done: list[Attached] = []
    replaced: dict[str, str] = {}
    for step in plan.steps:
        if isinstance(step.probe, Function):
            result = _attach_function(bpf, step)
            done.append(result)
            if result.backend is not None:
                replaced.update(dict.fromkeys(step.probe.stand_in, step.symbol))
    _require_forced(plan, done)
    tracepoints: list[Attached] = []
    for step in plan.steps:
        if isinstance(step.probe, Tracepoint):
            result = _attach_tracepoint(bpf, step, replaced)
            tracepoints.append(result)
            if result.backend is not None or step.symbol in replaced:
                better = replaced.get(step.symbol, step.symbol)
                replaced.update(dict.fromkeys(step.probe.stand_in, better))
    return [*tracepoints, *done]


def _require_forced(plan: Plan, functions: list[Attached]) -> None:
    if plan.forced in (None, "tracepoint") or any(one.backend for one in functions):
        return
    tried = (one for one in functions if one.detail.startswith(plan.forced))
    reason = next(tried, functions[0]).detail
    raise ProbeError(f"{reason}; {instead_of(plan.forced, plan.refused)}")


def _attach_tracepoint(bpf: Any, step: Step, replaced: dict[str, str]) -> Attached:
    assert isinstance(step.probe, Tracepoint)
    name, phase = step.symbol, step.probe.phase
    if name in replaced:
        return Attached(name, phase, None, f"not needed: {replaced[name]} is attached")
    if not step.backends:
        return Attached(name, phase, None, step.detail)
    from bcc import BPF

    try:
        load(bpf, f"on_{name}", BPF.RAW_TRACEPOINT)
        event, program = name.encode(), f"on_{name}".encode()
        quietly(f"tracepoint {name}", bpf.attach_raw_tracepoint, tp=event, fn_name=program)
        if name in _ATTACHED_TWICE and preemptible_tracepoints():
            _attach_again(bpf, name)
    except ProbeError as error:
        if step.probe.required:
            raise
        return Attached(name, phase, None, _first_line(error))
    return Attached(name, phase, "tracepoint", "")


def _attach_again(bpf: Any, name: str) -> None:
    """Attach the program that does what the first one could not: see ``calls.bpf.c``."""
    from bcc import BPF, lib

    program = f"{name}_again"
    load(bpf, f"on_{program}", BPF.RAW_TRACEPOINT)
    link = lib.bpf_attach_raw_tracepoint(bpf.funcs[f"on_{program}".encode()].fd, name.encode())
    if link < 0:
        raise ProbeError(f"tracepoint {name}: cannot be attached to a second time")
    bpf.raw_tracepoint_fds[program.encode()] = link


def _attach_function(bpf: Any, step: Step) -> Attached:
    assert isinstance(step.probe, Function)
    reasons = [step.detail] if step.detail else []
    for backend in step.backends:
        way = _by_fentry if backend == "fentry" else _by_kprobe
        try:
            way(bpf, step.symbol, step.probe)
        except ProbeError as error:
            _detach_function(bpf, step.symbol)
            reasons.append(f"{backend}: {_first_line(error)}")
            continue
        return Attached(step.symbol, step.probe.phase, backend, "; ".join(reasons))
    return Attached(step.symbol, step.probe.phase, None, "; ".join(reasons))


def _by_fentry(bpf: Any, symbol: str, probe: Function) -> None:
    """Attach the return first: a return without its entry is ignored, the reverse is not."""
    from bcc import BPF

    ways = ((probe.at_return, "kretfunc", "fexit"), (probe.at_entry, "kfunc", "fentry"))
    for wanted, kind, word in ways:
        if wanted:
            name = f"{kind}__{symbol}"
            load(bpf, name, BPF.TRACING)
            way = bpf.attach_kretfunc if kind == "kretfunc" else bpf.attach_kfunc
            quietly(f"{word} of {symbol}", way, fn_name=name.encode())


def _by_kprobe(bpf: Any, symbol: str, probe: Function) -> None:
    from bcc import BPF

    ways = ((probe.at_return, "kretprobe"), (probe.at_entry, "kprobe"))
    for wanted, kind in ways:
        if wanted:
            name = f"{kind}__{symbol}"
            load(bpf, name, BPF.KPROBE)
            way = bpf.attach_kretprobe if kind == "kretprobe" else bpf.attach_kprobe
            quietly(f"{kind} of {symbol}", way, event=symbol.encode(), fn_name=name.encode())


def load(bpf: Any, program: str, kind: int) -> None:
    """Load a compiled program, unless it is loaded; raise ProbeError as ``load_function`` does."""
    if program.encode() not in bpf.funcs:
        resolve(bpf, program)
        load_function(bpf, program, kind)


def _detach_function(bpf: Any, symbol: str) -> None:
    """Take back the half of a pair that was attached before the other half failed."""
    for kind, table in (("kfunc", bpf.kfunc_entry_fds), ("kretfunc", bpf.kfunc_exit_fds)):
        descriptor = table.pop(f"{kind}__{symbol}".encode(), None)
        if descriptor is not None:
            os.close(descriptor)
    event = symbol.encode()
    for name in [name for name in bpf.kprobe_fds if name in (b"p_" + event, b"r_" + event)]:
        bpf.detach_kprobe_event(name)


def detach(bpf: Any) -> None:
    """Detach everything that ``attach`` has attached; the programs stay loaded, but for fentry's.

    Before v5.13 (f3a95075549e) one of those can be attached only once.
    """
    for table in (bpf.kfunc_entry_fds, bpf.kfunc_exit_fds, bpf.raw_tracepoint_fds):
        for name in list(table):
            os.close(table.pop(name))
    for event in list(bpf.kprobe_fds):
        bpf.detach_kprobe_event(event)
    for name in [name for name in bpf.funcs if name.startswith((b"kfunc__", b"kretfunc__"))]:
        os.close(bpf.funcs.pop(name).fd)


def _first_line(error: ProbeError) -> str:
    return str(error).partition("\n")[0]
