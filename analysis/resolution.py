"""Which phases are too short for the probes that measured them."""

from __future__ import annotations

from collections.abc import Mapping

from analysis.load import Trace
from analysis.schema import CALLS, EVIDENCE, PHASES

__all__ = ("below_resolution",)


def below_resolution(trace: Trace) -> frozenset[str]:
    """Return the phases whose mean, over the calls that have them, is mostly the probes' own cost.

    The cost is ``resolution_ns`` of ``trace.json``, calibrated when the trace was made. A phase
    contains it, for nothing is corrected: of a mean below twice the cost, the smaller part is the
    call's own.
    """
    cost: Mapping[str, int] = trace.meta.get("resolution_ns") or {}
    if not cost:
        return frozenset()
    spent, calls = _summed(trace) if trace.meta.get("summary") else _counted(trace)
    return frozenset(
        phase
        for phase in PHASES
        if phase in cost and 0 < spent[phase] < 2 * cost[phase] * calls[phase]
    )


def _counted(trace: Trace) -> tuple[dict[str, int], dict[str, int]]:
    """Return for each phase its sum in ns and how many calls have it."""
    spent, calls = dict.fromkeys(PHASES, 0), dict.fromkeys(PHASES, 0)
    for piece in trace.pieces(CALLS, [f"{phase}_ns" for phase in PHASES]):
        for phase in PHASES:
            spent[phase] += int(piece[f"{phase}_ns"].sum())
            calls[phase] += int((piece[f"{phase}_ns"] > 0).sum())
    return spent, calls


def _summed(trace: Trace) -> tuple[dict[str, int], dict[str, int]]:
    """Return the same of a trace that has sums instead of calls, by what is counted in them."""
    sums = trace.read(EVIDENCE, list(EVIDENCE.columns))
    spent = {phase: int(sums[f"{phase}_ns"].sum()) for phase in PHASES}
    have = {
        "sleep": sums["slept"],
        "runq": sums["slept"],
        "spin": sums["again"],
        "check": sums["reported"] + sums["empty"],
        "copy": sums["received"],
        "overhead": sums["calls"] - sums["again"],
    }
    return spent, {phase: int(have[phase].sum()) for phase in PHASES}
