"""How epoll learns, tells, and hands over."""

from __future__ import annotations

import pandas as pd

from analysis.claims.claim import (
    CannotTell,
    Claim,
    Evidence,
    Figure,
    Finding,
    outcome_of,
)
from analysis.claims.descriptors import IDLE, scan_run
from analysis.claims.estimate import counted, median, share
from analysis.claims.experiments import Run, Trial
from analysis.claims.measures import (
    bounds_text,
    calls_per_request,
    cpu_ratio,
    pairs_text,
    percent_text,
    waits,
    workload,
)
from analysis.load import Trace
from analysis.schema import CALLS, DELIVERIES
from analysis.units import time_text

__all__ = ("CLAIMS",)

NEARLY_ALL = 0.9
"""The first data of a connection may come before it is registered."""
EFAULT = -14
CLIENTS, MESSAGES, PAIRS = 16, 4001, 11
EVENTPOLL, IO_URING = "anon_inode:[eventpoll]", "anon_inode:[io_uring]"
LAB = "iophase lab 6.1 -- claims --only epoll-calls-back"


def _registers_once(evidence: Evidence) -> Finding:
    [trace] = evidence["epoll"]
    if "epoll_level" not in trace.threads or trace.threads["epoll_level"].isna().any():
        raise CannotTell(f"{trace.name}: the trace does not count registrations")
    clients = int(workload(trace, "connections")) + int(workload(trace, "idle"))
    registered = int(trace.threads["epoll_level"].sum())
    waited, messages = len(waits(trace)), int(workload(trace, "messages"))
    # the listening socket is registered before anybody can connect: it may be in the count or not
    answer = clients <= registered <= clients + 1 and waited > registered
    return Finding(
        outcome_of(answer),
        f"{clients} connections, {registered} registrations by epoll_ctl in all, whatever came"
        f" after: {messages:,} requests and {waited:,} waits.",
        "every call counted",
        (
            Figure("registrations", counted([registered])),
            Figure("connections", counted([clients])),
            Figure("waits", counted([waited])),
        ),
    )


def _calls_back(evidence: Evidence) -> Finding:
    columns = ["notifier", "callback_ns"]
    data = pd.concat([trace.read(DELIVERIES, columns) for trace in evidence["epoll"]])
    known = data[data["notifier"].notna()]
    if known.empty:
        raise CannotTell(
            "ep_poll_callback is a function, and no function can be attached on this host."
            f" What would tell: {LAB}"
        )
    called = known[known["notifier"] == "ep_poll_callback"]
    part, cost = share(len(called), len(known)), median(called["callback_ns"].dropna())
    return Finding(
        outcome_of(part.at_least(NEARLY_ALL)),
        f"{len(called):,} of {len(known):,} arrivals were told by ep_poll_callback, which took"
        f" {time_text(cost.value)} each, in the sender's time.",
        bounds_text(part, percent_text),
        (Figure("arrivals that called back", part), Figure("callback", cost, "ns")),
    )


def _ready(trace: Trace, descriptor: int) -> list[int]:
    """Return what each wait on an epoll descriptor reported, in order."""
    calls = trace.read(CALLS, ["call", "fd", "ready"])
    own = calls[(calls["fd"] == descriptor).fillna(False)]
    own = own[own["call"].astype("string").str.startswith("epoll")]
    return [int(number) for number in own["ready"].fillna(-1)]


def _once(evidence: Evidence) -> Finding:
    [trace], [seen] = evidence["trial"], evidence.seen("trial")
    rounds = int(seen["rounds"])
    edge, level = _ready(trace, seen["edge_fd"]), _ready(trace, seen["level_fd"])
    if len(edge) != 2 * rounds or len(level) != 2 * rounds:
        raise CannotTell(f"{trace.name}: {len(edge)} and {len(level)} waits, not {2 * rounds}")
    told = sum(1 for number in edge[::2] if number == 1)
    again, level_again = sum(edge[1::2]), sum(level[1::2])
    answer = told == rounds and again == 0 if level_again == rounds else None
    return Finding(
        outcome_of(answer),
        f"Of {rounds} arrivals that were not read, edge-triggered epoll reported {told} at once and"
        f" {again} a second time; level-triggered {level_again} a second time.",
        "every call counted",
        (
            Figure("reported again, edge-triggered", share(again, rounds)),
            Figure("reported again, level-triggered", share(level_again, rounds)),
        ),
    )


def _faster(evidence: Evidence) -> Finding:
    edge, level = evidence["edge"], evidence["level"]
    cpu = cpu_ratio(edge, level)
    calls = [counted([calls_per_request(trace) for trace in side]) for side in (edge, level)]
    return Finding(
        outcome_of(cpu.at_most(1.0)),
        f"{CLIENTS} busy clients, small requests: edge-triggered a request takes {cpu.value:.2f}"
        f" times the CPU time of level-triggered, and {calls[0].value:.2f} calls instead of"
        f" {calls[1].value:.2f}: who is told once must receive until nothing is left.",
        pairs_text(cpu, edge),
        (
            Figure("CPU per request, edge / level", cpu),
            Figure("calls per request, edge-triggered", calls[0]),
            Figure("calls per request, level-triggered", calls[1]),
        ),
    )


def _shares_memory(evidence: Evidence) -> Finding:
    [trial], [told], [server] = evidence["trial"], evidence.seen("trial"), evidence.seen("epoll")
    calls = trial.read(CALLS, ["call", "result"])
    results = calls[calls["call"].astype("string").str.startswith("epoll")]["result"]
    faults, found = int((results == EFAULT).sum()), int((results == 1).sum())
    mapped = int(server["mappings"].get(EVENTPOLL, 0))
    control = _control(evidence)
    if mapped or told["mmap_error"] is None:
        answer: bool | None = True
    else:
        answer = False if faults and faults == found == told["rounds"] else None
    return Finding(
        outcome_of(answer),
        f"The server's epoll descriptor is mapped {mapped} times{control}, and mmap() of one fails"
        f" ({told['mmap_error']}). The events are copied: all {faults} of {told['rounds']} waits"
        f" into a page that may not be written failed with EFAULT, and the {found} after them got"
        " the event.",
        "every call counted",
        (
            Figure("mappings of the epoll descriptor", counted([mapped])),
            Figure("waits that failed to copy", share(faults, int(told["rounds"]))),
        ),
    )


def _control(evidence: Evidence) -> str:
    """Say how io_uring, which does share memory, looks by the same look."""
    try:
        [ring] = evidence.seen("io_uring")
    except CannotTell:
        return ""
    return f" (an io_uring: {ring['mappings'].get(IO_URING, 0)} times)"


CLAIMS = (
    Claim(
        "epoll-registers-once",
        "epoll copies a descriptor into the kernel once, when epoll_ctl registers it.",
        "As many registrations as connections, however many requests and waits there are.",
        {"epoll": scan_run("epoll", IDLE[1])},
        _registers_once,
    ),
    Claim(
        "epoll-calls-back",
        "When data arrives for a registered descriptor, the kernel calls epoll back.",
        "At least 90 % of the arrivals run ep_poll_callback.",
        {"epoll": scan_run("epoll", 0)},
        _calls_back,
    ),
    Claim(
        "edge-triggered-once",
        "Edge-triggered epoll tells only once: what one does not act upon is not told again.",
        "A second wait without a new arrival reports nothing; level-triggered it reports again.",
        {"trial": Trial("edge_triggered")},
        _once,
    ),
    Claim(
        "edge-triggered-faster",
        "Edge-triggered epoll performs better than level-triggered, in theory.",
        "A small request costs less CPU time edge-triggered.",
        {
            "edge": Run("epoll-et", connections=CLIENTS, messages=MESSAGES),
            "level": Run("epoll", connections=CLIENTS, messages=MESSAGES),
        },
        _faster,
        repetitions=PAIRS,
    ),
    Claim(
        "epoll-shares-memory",
        "epoll shares memory with the process by mmap, so descriptors are not copied.",
        "A descriptor of epoll is mapped; a wait writes nothing to the caller's own buffer.",
        {
            "epoll": scan_run("epoll", 0),
            "io_uring": scan_run("io_uring", 0),
            "trial": Trial("epoll_memory"),
        },
        _shares_memory,
    ),
)
