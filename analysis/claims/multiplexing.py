"""I/O multiplexing against blocking I/O, on one connection; what Python chooses."""

from __future__ import annotations

from collections import Counter

from analysis.claims.claim import Claim, Evidence, Figure, Finding, outcome_of
from analysis.claims.estimate import all_of, counted, paired_ratio, share
from analysis.claims.experiments import Run
from analysis.claims.measures import (
    bounds_text,
    calls_per_request,
    cpu_ratio,
    pairs_text,
    waits,
    workload,
)
from analysis.load import Trace

__all__ = ("CLAIMS",)

MESSAGES = 5003
"""A quarter of a second of request and reply; a prime, so that no other count equals it."""
ABOUT = 0.05
"""Calls per request may differ by so much from a whole number: accepting, and the end."""
AS_FAST = 0.9
"""Not faster: its response takes at least this share of the other's. Smaller differences come and
go with the placement of two processes on two CPUs."""


def _two_calls(evidence: Evidence) -> Finding:
    select = counted([calls_per_request(trace) for trace in evidence["select"]])
    blocking = counted([calls_per_request(trace) for trace in evidence["blocking"]])
    answer = all_of(
        select.at_least(2 - ABOUT),
        select.at_most(2 + ABOUT),
        blocking.at_least(1 - ABOUT),
        blocking.at_most(1 + ABOUT),
    )
    return Finding(
        outcome_of(answer),
        f"{select.value:.3f} calls per request with select, {blocking.value:.3f} with blocking I/O,"
        " the calls that accept left out.",
        f"every call counted, {len(evidence['select'])} runs each",
        (
            Figure("calls per request, select", select),
            Figure("calls per request, blocking", blocking),
        ),
    )


def _not_faster(evidence: Evidence) -> Finding:
    select, blocking = evidence["select"], evidence["blocking"]
    latency = paired_ratio(
        *([_response_ns(trace) for trace in side] for side in (select, blocking))
    )
    cpu = cpu_ratio(select, blocking)
    answer = all_of(latency.at_least(AS_FAST), cpu.at_least(1.0))
    return Finding(
        outcome_of(answer),
        f"With select a request on the only connection takes {latency.value:.2f} times as long"
        f" (median) and {cpu.value:.2f} times the CPU time of blocking I/O.",
        f"time {pairs_text(latency, select)}; CPU {bounds_text(cpu)}",
        (
            Figure("response time, select / blocking", latency),
            Figure("CPU per request, select / blocking", cpu),
        ),
    )


def _response_ns(trace: Trace) -> float:
    return float(workload(trace, "latency_ns")["p50"])


def _picks_epoll(evidence: Evidence) -> Finding:
    names: Counter[str] = Counter()
    for trace in evidence["selectors"]:
        names.update(waits(trace)["call"].astype("string"))
    total = names.total()
    part = share(sum(n for name, n in names.items() if name.startswith("epoll")), total)
    return Finding(
        outcome_of(None if not total else part.value == 1.0),
        f"DefaultSelector waited {total:,} times, with "
        + " and ".join(f"{name} {n:,} times" for name, n in names.most_common())
        + ".",
        "every call counted",
        (Figure("waits by epoll", part),),
    )


_PAIR = {
    "select": Run("select", messages=MESSAGES),
    "blocking": Run("blocking", messages=MESSAGES),
}

CLAIMS = (
    Claim(
        "select-two-calls",
        "select needs two system calls (select and recvfrom) where blocking I/O needs one.",
        "2 calls per request with select, 1 with blocking I/O.",
        _PAIR,
        _two_calls,
        repetitions=5,
    ),
    Claim(
        "select-not-faster",
        "select is no faster on a single connection; its merit is that it serves many.",
        "Not faster by more than a tenth than blocking I/O, and dearer in CPU time.",
        _PAIR,
        _not_faster,
        repetitions=5,
    ),
    Claim(
        "selectors-picks-epoll",
        "The selectors module chooses what suits the platform best, on Linux epoll.",
        "DefaultSelector waits in epoll_wait, and in nothing else.",
        {"selectors": Run("selectors", connections=3, messages=307)},
        _picks_epoll,
    ),
)
