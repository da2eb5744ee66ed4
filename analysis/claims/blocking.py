"""Blocking I/O."""

from __future__ import annotations

import pandas as pd

from analysis.claims.claim import Claim, Evidence, Figure, Finding, outcome_of
from analysis.claims.estimate import median, share
from analysis.claims.experiments import Run
from analysis.claims.measures import bounds_text, percent_text, received
from analysis.units import time_text

__all__ = ("BIG", "CLAIMS", "RATE")

RATE = 193.0
"""Messages per second: so few that each finds the server waiting; a prime, so that the pauses of a
server that polls do not fall into step with it."""
BIG = 16_384
"""Bytes that take microseconds to copy, and still arrive in one piece."""
PERIOD_S = 0.8

NEARLY_ALL = 0.9
"""What is claimed of every call is to be true of this share: data may be there before the call."""


def _blocks(evidence: Evidence) -> Finding:
    calls = pd.concat([received(trace) for trace in evidence["blocking"]])
    own = calls["context"] == "process"
    both = calls[own & (calls["sleep_ns"] > 0) & (calls["copy_ns"] > 0)]
    part = share(len(both), len(calls))
    sleep, copy = median(both["sleep_ns"]), median(both["copy_ns"])
    return Finding(
        outcome_of(part.at_least(NEARLY_ALL)),
        f"{len(both):,} of {len(calls):,} receives slept until data came (median"
        f" {time_text(sleep.value)}) and then copied it themselves ({time_text(copy.value)} for"
        " 16 KiB), in one call.",
        bounds_text(part, percent_text),
        (
            Figure("receives that slept and copied", part),
            Figure("sleep", sleep, "ns"),
            Figure("copy", copy, "ns"),
        ),
    )


CLAIMS = (
    Claim(
        "blocking-blocks",
        "Blocking I/O is blocked in both phases: waiting for the data, and copying it.",
        "Of the receives that return data, at least 90 % slept and copied within the same call.",
        {"blocking": Run("blocking", rate=RATE, size=BIG, duration_s=PERIOD_S)},
        _blocks,
    ),
)
