"""What this host lets iophase measure: the attach plan, probe by probe, before any is attached.

Whether a backend works was tried with a program that does nothing; whether a probe has something
to attach to is read from BTF. The rest shows when a recording attaches them, and is in its trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probes.plan import Plan, Step

__all__ = ("Outlook", "Prospect", "look_ahead")


@dataclass(frozen=True)
class Prospect:
    """What is to be expected of one probe."""

    name: str
    phase: str
    """The phase or the figure that it gives."""
    backend: str | None
    """The best backend that will be tried; None if there is none."""
    detail: str
    """Why there is none."""
    without: str
    """What is lost without it."""
    stand_in: tuple[str, ...] = ()
    """Tracepoints of this kernel that give the same less exactly."""


@dataclass(frozen=True)
class Outlook:
    """What a recording on this host would do."""

    backend: str
    refused: dict[str, str]
    """Backends that this host refuses, with its reason."""
    probes: tuple[Prospect, ...]

    def with_backend(self) -> tuple[Prospect, ...]:
        """Return the probes that will be tried."""
        return tuple(probe for probe in self.probes if probe.backend is not None)

    def replaced(self) -> tuple[Prospect, ...]:
        """Return the probes for which tracepoints stand in."""
        return tuple(p for p in self.probes if p.backend is None and p.stand_in)

    def absent(self) -> tuple[Prospect, ...]:
        """Return the probes whose figures cannot be had."""
        return tuple(p for p in self.probes if p.backend is None and not p.stand_in)


def look_ahead() -> Outlook:
    """Return the outlook on this host; raises ``probes.errors.ProbeError`` where it has no BTF."""
    from probes.plan import make_plan

    plan = make_plan()
    return Outlook(
        backend=plan.best,
        refused={str(backend): reason for backend, reason in plan.refused.items()},
        probes=tuple(_prospects(plan)),
    )


def _prospects(plan: Plan) -> list[Prospect]:
    from probes.catalogue import Function

    tracepoints = {step.symbol for step in plan.steps if _is_tracepoint_of_this_kernel(step)}
    found = []
    for step in plan.steps:
        probe = step.probe
        backend: str | None = step.backends[0] if step.backends else None
        detail = step.detail
        stand_in: tuple[str, ...] = ()
        if isinstance(probe, Function):
            if set(probe.stand_in) <= tracepoints:
                stand_in = probe.stand_in
        elif step.symbol not in tracepoints:
            backend, detail = None, f"not in this kernel (since {probe.since})"
        found.append(Prospect(step.symbol, probe.phase, backend, detail, probe.without, stand_in))
    return found


def _is_tracepoint_of_this_kernel(step: Step) -> bool:
    """Look for the type that every raw tracepoint has in BTF (include/trace/bpf_probe.h)."""
    from probes import btf

    if step.backends != ("tracepoint",):
        return False
    return bool(btf.load().find(btf.Kind.TYPEDEF, f"btf_trace_{step.symbol}"))
