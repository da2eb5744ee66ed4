"""What select, poll and epoll pay for descriptors, and how many they take."""

from __future__ import annotations

import functools

import numpy as np

from analysis.claims.claim import (
    CannotTell,
    Claim,
    Evidence,
    Figure,
    Finding,
    outcome_of,
)
from analysis.claims.estimate import Estimate, counted, mean, slope
from analysis.claims.experiments import Experiment, Run, Trial
from analysis.claims.measures import (
    bounds_text,
    cpu_per_request_ns,
    cpu_ratio,
    pairs_text,
    waits,
    workload,
)
from analysis.fit import fit_line
from analysis.units import time_text

__all__ = ("CLAIMS", "IDLE", "scan_run")

MODELS = ("select", "poll", "epoll")
IDLE = (0, 400, 900)
"""Silent connections beside the busy one: within what select can take."""
MESSAGES = 1009
REPETITIONS = 2
PAIRS = 5

NEGLIGIBLE = 0.05
"""epoll pays nothing for a descriptor if it pays less than this share of what select pays."""

FD_SETSIZE = 1024
CROWD = 1103
"""Clients at once, more than FD_SETSIZE."""


def scan_run(model: str, idle: int) -> Run:
    """Return the run of a model with so many silent connections."""
    return Run(model, idle=idle, messages=MESSAGES)


def _label(model: str, idle: int) -> str:
    return f"{model} {idle}"


def _rise(evidence: Evidence, model: str) -> tuple[Estimate, dict[int, float]]:
    """Return the cost of a descriptor in a wait, in ns, and the median cost at each number.

    Medians of a run's waits: what interrupts add to a few of them does not count.
    """
    points: list[tuple[float, float]] = []
    medians: dict[int, float] = {}
    for idle in IDLE:
        costs = []
        for trace in evidence[_label(model, idle)]:
            check = waits(trace)["check_ns"].dropna()
            if check.empty:
                raise CannotTell(f"{trace.name}: no wait was seen")
            descriptors = workload(trace, "connections") + workload(trace, "idle") + 1
            costs.append(float(check.median()))
            points.append((descriptors, costs[-1]))
        medians[idle] = float(np.mean(costs))
    xs, ys = zip(*points, strict=True)
    return slope(fit_line(xs, ys)), medians


def _sentence(model: str, rise: Estimate, medians: dict[int, float]) -> str:
    shown = ", ".join(f"{time_text(cost)} with {idle + 2}" for idle, cost in medians.items())
    return f"{model}: {rise.value:.3g} ns more per descriptor and call ({shown} descriptors)."


def _pays(evidence: Evidence, model: str) -> Finding:
    rise, medians = _rise(evidence, model)
    answer = None if np.isnan(rise.low) else rise.low > 0 or (False if rise.high <= 0 else None)
    return Finding(
        outcome_of(answer),
        _sentence(model, rise, medians),
        f"{bounds_text(rise)} ns, {REPETITIONS * len(IDLE)} runs",
        (Figure("cost of a descriptor in a call", rise, "ns"),),
    )


def _pays_once(evidence: Evidence) -> Finding:
    epoll, medians = _rise(evidence, "epoll")
    select, _ = _rise(evidence, "select")
    limit = NEGLIGIBLE * select.value
    return Finding(
        outcome_of(epoll.at_most(limit)),
        f"{_sentence('epoll', epoll, medians)} select: {select.value:.3g} ns.",
        f"{bounds_text(epoll)} ns, {REPETITIONS * len(IDLE)} runs",
        (
            Figure("cost of a descriptor in a call, epoll", epoll, "ns"),
            Figure("cost of a descriptor in a call, select", select, "ns"),
        ),
    )


def _cheaper(evidence: Evidence) -> Finding:
    poll, select = (evidence[_label(model, IDLE[-1])] for model in ("poll", "select"))
    ratio = cpu_ratio(poll, select)
    polled, selected = (
        time_text(mean([cpu_per_request_ns(trace) for trace in side]).value)
        for side in (poll, select)
    )
    return Finding(
        outcome_of(ratio.at_most(1.0)),
        f"With {IDLE[-1] + 2} descriptors a request takes {polled} of the server's CPU time with"
        f" poll and {selected} with select: {ratio.value:.2f} times as much.",
        pairs_text(ratio, poll),
        (Figure("CPU per request, poll / select", ratio),),
    )


def _stops(evidence: Evidence) -> Finding:
    served = {model: int(workload(evidence[model][0], "connections_served")) for model in MODELS}
    refused = int(workload(evidence["select"][0], "server").get("refused", 0))
    asked = {model: _most(evidence, model) for model in ("select", "poll")}
    [kernel] = evidence.seen("kernel")
    others = min(served["poll"], served["epoll"])
    answer: bool | None = served["select"] < FD_SETSIZE and refused > 0 and others == CROWD
    if others < CROWD:
        answer = None if served["select"] < FD_SETSIZE else False
    kernel_text = (
        f"The limit is the C library's fd_set: the kernel itself took nfds {kernel['nfds']:,}."
        if kernel.get("ready") == 1
        else "The kernel itself took no more, either."
    )
    return Finding(
        outcome_of(answer),
        f"Of {CROWD:,} clients select served {served['select']:,} (nfds up to {asked['select']:,})"
        f" and refused {refused}; poll served {served['poll']:,} (nfds {asked['poll']:,}), epoll"
        f" {served['epoll']:,}. {kernel_text}",
        "every client counted",
        tuple(Figure(f"clients served, {model}", counted([n])) for model, n in served.items()),
    )


def _most(evidence: Evidence, model: str) -> int:
    asked = waits(evidence[model][0])["nfds"].dropna()
    return int(asked.max()) if len(asked) else 0


def _scans(model: str) -> dict[str, Experiment]:
    return {_label(model, idle): scan_run(model, idle) for idle in IDLE}


_ALL_SCANS: dict[str, Experiment] = {
    _label(model, idle): scan_run(model, idle) for idle in IDLE for model in ("select", "epoll")
}

CLAIMS = (
    *(
        Claim(
            f"{model}-pays-per-descriptor",
            f"Every call of {model} copies and scans the whole set: dear with many descriptors.",
            "The on-CPU time of a wait rises with the number of descriptors.",
            _scans(model),
            functools.partial(_pays, model=model),
            repetitions=REPETITIONS,
        )
        for model in ("select", "poll")
    ),
    Claim(
        "poll-cheaper-than-select",
        "poll is more efficient than select, which has to make its sets anew for every call.",
        f"With {IDLE[-1]} silent connections a request costs less CPU time with poll.",
        {_label(model, IDLE[-1]): scan_run(model, IDLE[-1]) for model in ("select", "poll")},
        _cheaper,
        repetitions=PAIRS,
    ),
    Claim(
        "epoll-pays-once",
        "epoll does not scan: epoll_wait only looks whether the ready list is empty.",
        "A descriptor costs a wait of epoll less than a twentieth of what it costs select's.",
        _ALL_SCANS,
        _pays_once,
        repetitions=REPETITIONS,
    ),
    Claim(
        "select-stops-at-1024",
        "select takes 1024 descriptors at most; poll and epoll have no such limit.",
        f"Of {CROWD} clients select leaves some unserved, poll and epoll none.",
        {
            **{
                model: Run(model, connections=CROWD, messages=CROWD)
                for model in ("select", "poll", "epoll")
            },
            "kernel": Trial("select_limit"),
        },
        _stops,
    ),
)
