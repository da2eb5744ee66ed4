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
    since: str
    """The first kernel that has it; of functions the first supported one."""
    backend: str | None
    """By what it will be attached; None if it will not be."""
    detail: str
    """Why it will not be, or not by a better backend."""
    without: str
    """What is lost without it."""
    stand_in: tuple[str, ...] = ()
    """Tracepoints of this kernel that give the same less exactly."""
    needed: bool = True
    """False where a better probe gives the same."""


@dataclass(frozen=True)
class Outlook:
    """What a recording on this host would do."""

    backend: str
    refused: dict[str, str]
    """Backends that this host refuses, with its reason."""
    probes: tuple[Prospect, ...]

    def with_backend(self) -> tuple[Prospect, ...]:
        """Return the probes that will be attached."""
        return tuple(probe for probe in self.probes if probe.backend is not None)


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
    """Foretell each step: functions first, as they are attached, because they spare tracepoints."""
    from probes.catalogue import Function
    from probes.plan import has_tracepoint

    points = [step.symbol for step in plan.steps if not isinstance(step.probe, Function)]
    here = set(filter(has_tracepoint, points))
    spared: dict[str, str] = {}
    found: dict[str, Prospect] = {}
    for step in sorted(plan.steps, key=lambda step: not isinstance(step.probe, Function)):
        prospect = _prospect(step, here, spared, plan.best == "tracepoint")
        found[step.symbol] = prospect
        better = spared.get(step.symbol, step.symbol)
        if prospect.backend is not None or not prospect.needed:
            spared.update(dict.fromkeys(step.probe.stand_in, better))
    return [found[step.symbol] for step in plan.steps]


def _prospect(step: Step, here: set[str], spared: dict[str, str], no_functions: bool) -> Prospect:
    from probes.catalogue import Function

    probe = step.probe
    backend: str | None = step.backends[0] if step.backends else None
    detail, needed = step.detail, step.symbol not in spared
    if not needed:
        backend, detail = None, f"not needed: {spared[step.symbol]} is attached"
    elif isinstance(probe, Function) and no_functions:
        detail = "no function can be attached"  # the reason, which is that of all, is in `refused`
    elif not isinstance(probe, Function) and not step.backends:
        needed = False
    elif not isinstance(probe, Function) and step.symbol not in here:
        backend, detail = None, f"not in this kernel (since {probe.since})"
    stand_in = probe.stand_in if set(probe.stand_in) <= here else ()
    return Prospect(
        name=step.symbol,
        phase=probe.phase,
        since=probe.since,
        backend=backend,
        detail=detail,
        without=probe.without,
        stand_in=stand_in,
        needed=needed,
    )
