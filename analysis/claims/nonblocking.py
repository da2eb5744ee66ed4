"""Non-blocking I/O, and polling with it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.claims.blocking import BIG, NEARLY_ALL, PERIOD_S, RATE
from analysis.claims.claim import Claim, Evidence, Figure, Finding, outcome_of
from analysis.claims.estimate import counted, mean, median, paired_ratio, share, slope
from analysis.claims.experiments import Run
from analysis.claims.measures import (
    bounds_text,
    cpu_share,
    delivery_ns,
    pairs_text,
    percent_text,
    received,
)
from analysis.fit import fit_line
from analysis.schema import CALLS
from analysis.units import time_text

__all__ = ("CLAIMS",)

NEVER = 0.001
"""A call that does it is an accident where fewer do it; a run makes far more calls than that."""
GREATLY = 5.0
"""How much more CPU time "greatly" is, at the least."""
NAPS_S = (0.004, 0.016)
"""Pauses between polls: far longer than what a busy machine adds to a wait."""
RARE = 97.0
"""Messages per second that leave a pause between them far longer than those of the server."""
WORTH_A_PAUSE = 0.25
"""Data that arrives at any time waits for half a pause on average; half of that would still be an
effect of the pause."""

EAGAIN = -11

_POLLING = Run("nonblocking", rate=RATE, size=BIG, duration_s=PERIOD_S)
_BLOCKING = Run("blocking", rate=RATE, size=BIG, duration_s=PERIOD_S)


def _random_load(model: str, *server_options: str) -> Run:
    """Return a load whose messages come at any moment, whatever the server does meanwhile."""
    return Run(
        model,
        connections=8,
        rate=RARE,
        random=True,
        duration_s=PERIOD_S,
        server_options=server_options,
    )


def _never_sleeps(evidence: Evidence) -> Finding:
    calls = pd.concat(
        [trace.read(CALLS, ["result", "sleep_ns"]) for trace in evidence["nonblocking"]]
    )
    calls = calls[calls["result"].notna()]
    slept, empty = int((calls["sleep_ns"] > 0).sum()), int((calls["result"] == EAGAIN).sum())
    part = share(slept, len(calls))
    return Finding(
        outcome_of(part.at_most(NEVER)),
        f"{slept:,} of {len(calls):,} calls slept; {empty:,} of them came back empty-handed,"
        " with EAGAIN.",
        f"95 %: at most {part.high:.2g} of all calls sleep",
        (Figure("calls that slept", part), Figure("EAGAIN", counted([empty]))),
    )


def _copies(evidence: Evidence) -> Finding:
    calls = pd.concat([received(trace) for trace in evidence["nonblocking"]])
    copied = calls[(calls["copy_ns"] > 0) & (calls["context"] == "process")]
    part, copy = share(len(copied), len(calls)), median(copied["copy_ns"])
    return Finding(
        outcome_of(part.at_least(NEARLY_ALL)),
        f"{len(copied):,} of {len(calls):,} receives that found data copied it within the call, in"
        f" the process's own time: {time_text(copy.value)} for 16 KiB.",
        bounds_text(part, percent_text),
        (Figure("receives that copied", part), Figure("copy", copy, "ns")),
    )


def _burns(evidence: Evidence) -> Finding:
    polling = [cpu_share(trace) for trace in evidence["nonblocking"]]
    blocking = [cpu_share(trace) for trace in evidence["blocking"]]
    ratio = paired_ratio(polling, blocking)
    given_up = sum(
        int(trace.threads["voluntary_switches"].sum()) for trace in evidence["nonblocking"]
    )
    return Finding(
        outcome_of(ratio.at_least(GREATLY)),
        f"At the same {RATE:.0f} requests/s the polling server took {ratio.value:.0f} times the CPU"
        f" time of the blocking one: {np.mean(polling):.0%} of a CPU, which it gave up of its own"
        f" accord {given_up} times, against {np.mean(blocking):.1%}.",
        pairs_text(ratio, polling),
        (
            Figure("CPU time, polling / blocking", ratio),
            Figure("CPU share, polling", mean(polling)),
            Figure("CPU share, blocking", mean(blocking)),
        ),
    )


def _pause_delays(evidence: Evidence) -> Finding:
    points = [(0.0, float(np.median(delivery_ns(trace)))) for trace in evidence["0"]]
    for nap in NAPS_S:
        for trace in evidence[f"{nap:g}"]:
            points.append((nap * 1e9, float(np.median(delivery_ns(trace)))))
    pauses, delays = zip(*points, strict=True)
    rise = slope(fit_line(pauses, delays, relative=False))
    shown = ", ".join(
        f"{time_text(float(np.mean([delay for at, delay in points if at == pause])))} with"
        f" {'none' if not pause else time_text(pause)}"
        for pause in dict.fromkeys(pauses)
    )
    return Finding(
        outcome_of(rise.at_least(WORTH_A_PAUSE)),
        f"Median wait of arrived data by the pause between polls: {shown}. Each pause costs"
        f" {rise.value:.2f} of itself.",
        f"{bounds_text(rise)} of the pause, {len(points)} runs",
        (Figure("delay per pause", rise),),
    )


CLAIMS = (
    Claim(
        "nonblocking-never-sleeps",
        "A non-blocking call that finds no data does not block the process: it returns at once.",
        "Fewer than 1 in 1,000 calls of the polling server sleep.",
        {"nonblocking": _POLLING},
        _never_sleeps,
    ),
    Claim(
        "nonblocking-copies",
        "Once data is there, a non-blocking receive blocks the process while it copies.",
        "Of the receives that return data, at least 90 % copied it in the process, in the call.",
        {"nonblocking": _POLLING},
        _copies,
    ),
    Claim(
        "polling-burns-cpu",
        "Calling recv() in a loop pushes CPU usage up greatly.",
        "At one rate of requests, polling takes at least 5 times the CPU time of blocking.",
        {"nonblocking": _POLLING, "blocking": _BLOCKING},
        _burns,
        repetitions=3,
    ),
    Claim(
        "pause-adds-delay",
        "Polling only every so often makes the response later: data comes between two polls.",
        "The wait of arrived data grows with the pause, by at least a quarter of it.",
        {
            "0": _random_load("nonblocking"),
            **{f"{nap:g}": _random_load("nonblocking-nap", "--nap", f"{nap:g}") for nap in NAPS_S},
        },
        _pause_delays,
        repetitions=3,
    ),
)
