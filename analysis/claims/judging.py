"""Judges claims: whatever the evidence lacks becomes a verdict, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.claims.claim import (
    CannotTell,
    Claim,
    Evidence,
    Finding,
    Missing,
    Outcome,
    Verdict,
)

__all__ = ("Results", "judge")

Results = Mapping[str, Sequence[Path] | Missing]
"""The traces of each experiment by its name, one per repetition, or why there is none."""

_NOT_RUN = Missing("the experiment was not run", failed=True)


def judge(claim: Claim, results: Results) -> Verdict:
    """Return the verdict on a claim. Raises TraceError on a damaged trace."""
    found = {label: results.get(one.name, _NOT_RUN) for label, one in claim.experiments.items()}
    evidence = Evidence({label: _first(one, claim.repetitions) for label, one in found.items()})
    failed = any(isinstance(one, Missing) and one.failed for one in found.values())
    try:
        finding = claim.judge(evidence)
    except CannotTell as error:
        finding = Finding(Outcome.CANNOT_BE_TOLD, str(error), "")
    return Verdict(claim, finding, tuple(trace.path for trace in evidence.used), failed)


def _first(found: Sequence[Path] | Missing, repetitions: int) -> Sequence[Path] | Missing:
    """Return as many repetitions as the claim asked for: another may have asked for more."""
    return found if isinstance(found, Missing) else found[:repetitions]
