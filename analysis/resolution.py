"""Which phases are too short for the probes that measured them."""

from __future__ import annotations

from analysis.load import Trace
from analysis.schema import CALLS, PHASES

__all__ = ("below_resolution",)


def below_resolution(trace: Trace) -> frozenset[str]:
    """Return the phases whose mean, over the calls that have them, is below the cost of the probes.

    The cost is ``resolution_ns`` of ``trace.json``, calibrated when the trace was made.
    """
    cost = trace.meta.get("resolution_ns") or {}
    known = [phase for phase in PHASES if cost.get(phase) is not None]
    if not known:
        return frozenset()
    spent, calls = dict.fromkeys(known, 0), dict.fromkeys(known, 0)
    for piece in trace.pieces(CALLS, [f"{phase}_ns" for phase in known]):
        for phase in known:
            spent[phase] += int(piece[f"{phase}_ns"].sum())
            calls[phase] += int((piece[f"{phase}_ns"] > 0).sum())
    return frozenset(
        phase for phase in known if calls[phase] and spent[phase] / calls[phase] < cost[phase]
    )
