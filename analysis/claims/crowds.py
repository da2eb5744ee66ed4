"""Many connections: a thread for each, a pool of threads, one loop for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.claims.claim import Claim, Evidence, Figure, Finding, outcome_of
from analysis.claims.descriptors import scan_run
from analysis.claims.estimate import Estimate, all_of, mean, median, paired_ratio, share
from analysis.claims.experiments import Run
from analysis.claims.measures import bounds_text, first_waits_ns, pairs_text, percent_text, workload
from analysis.delivery_waits import delivery_waits
from analysis.load import Trace
from analysis.units import time_text

__all__ = ("CLAIMS",)

REPETITIONS = 3
POOL_REPETITIONS = 5
"""Making a thousand threads takes now this long, now that."""

CLIENTS = 16
MESSAGES = 8009
PASSING = 2003
"""Connections of one request each."""
POOL = 4
"""Threads of the pool: a quarter of the clients is served at a time."""
SILENT = 400
"""Connections that cost memory and do nothing."""
WORTH_NOTING_KIB = 1.0
"""A thread costs memory if it costs this much more than a connection in a loop."""

NO_BETTER = 0.8
"""A pool is not much better if it takes at least this share of the time that it takes without."""

WORK_US = 2000
BURST = 4
"""Requests that arrive together, each with this much work for the CPU."""
MANY, FEW = 0.5, 0.25
"""One is held up by others if at least so many wait for them (all but the first should), and is not
if at most so few do."""


def _first_wait(trace: Trace) -> float:
    return float(np.median(first_waits_ns(trace)))


def _isolates(evidence: Evidence) -> Finding:
    alone, apart = _held_up(evidence["blocking"]), _held_up(evidence["threads"])
    waits = {
        model: [_first_wait(trace) for trace in evidence[model]] for model in evidence.directories
    }
    return Finding(
        outcome_of(all_of(alone.at_least(MANY), apart.at_most(FEW))),
        f"{CLIENTS} busy clients: without threads the first request of {alone.value:.0%} of them"
        " waited while the server served others, until those had left"
        f" ({time_text(mean(waits['blocking']).value)}); with a thread for each {apart.value:.0%}"
        f" ({time_text(mean(waits['threads']).value)}).",
        f"without {bounds_text(alone, percent_text)}, with {bounds_text(apart, percent_text)},"
        f" {REPETITIONS} runs each",
        (
            Figure("clients held up by others, without threads", alone),
            Figure("clients held up by others, with threads", apart),
            Figure("first wait without threads", mean(waits["blocking"]), "ns"),
            Figure("first wait with threads", mean(waits["threads"]), "ns"),
        ),
    )


def _held_up(traces: Sequence[Trace]) -> Estimate:
    """Return the share of the connections whose first data waited mostly for a thread that was
    busy with other connections."""
    waits = pd.concat([_first(delivery_waits(trace)) for trace in traces])
    held = waits["busy_ns"] > waits["total_ns"] / 2
    return share(int(held.sum()), len(held))


def _first(waits: pd.DataFrame) -> pd.DataFrame:
    return waits.sort_values("copied_ns", kind="stable").drop_duplicates("socket")


def _cost(evidence: Evidence) -> Finding:
    memory = mean(
        np.array(_kib_per_connection(evidence, "threads"))
        - np.array(_kib_per_connection(evidence, "epoll"))
    )
    switches = paired_ratio(
        [_switches(trace) for trace in evidence["threads busy"]],
        [_switches(trace) for trace in evidence["epoll busy"]],
    )
    counts = [_switches(trace) for trace in evidence["threads busy"]]
    answer = all_of(memory.at_least(WORTH_NOTING_KIB), switches.at_least(1.0))
    return Finding(
        outcome_of(answer),
        f"A thread costs {memory.value:.1f} KiB of resident memory more than a connection of epoll,"
        f" its kernel stack not counted; {mean(counts).value:.2f} switches per request, "
        f"{switches.value:.1f} times those of epoll.",
        f"memory {bounds_text(memory)} KiB; switches {pairs_text(switches, counts)}",
        (
            Figure("memory of a thread", memory, "KiB"),
            Figure("switches per request, threads / epoll", switches),
        ),
    )


def _kib_per_connection(evidence: Evidence, model: str) -> list[float]:
    pairs = zip(evidence.seen(f"{model} silent"), evidence.seen(f"{model} alone"), strict=False)
    return [(crowd["rss_kib"] - alone["rss_kib"]) / SILENT for crowd, alone in pairs]


def _switches(trace: Trace) -> float:
    threads = trace.threads
    total = threads["voluntary_switches"].sum() + threads["involuntary_switches"].sum()
    return float(total) / max(int(workload(trace, "messages")), 1)


def _pool(evidence: Evidence) -> Finding:
    pooled, apart = _held_up(evidence["pool"]), _held_up(evidence["threads"])
    passing = paired_ratio(
        [_response_ns(trace) for trace in evidence["pool passing"]],
        [_response_ns(trace) for trace in evidence["threads passing"]],
    )
    rate = paired_ratio(
        [_rate(trace) for trace in evidence["pool"]],
        [_rate(trace) for trace in evidence["threads"]],
    )
    answer = all_of(pooled.at_least(apart.low), passing.at_least(NO_BETTER))
    return Finding(
        outcome_of(answer),
        f"{CLIENTS} clients, {POOL} threads, against a thread for each. Clients that stay:"
        f" {pooled.value:.0%} wait for others to leave, without the pool {apart.value:.0%}. Clients"
        f" that come for one request: the mean response takes {passing.value:.2f} times as long.",
        f"wait {bounds_text(pooled, percent_text)}; response"
        f" {pairs_text(passing, evidence['pool'])}",
        (
            Figure("response to clients of one request, pool / a thread each", passing),
            Figure("clients that stay held up by others, pool", pooled),
            Figure("clients that stay held up by others, a thread each", apart),
            Figure("requests per second of clients that stay, pool / a thread each", rate),
        ),
    )


def _rate(trace: Trace) -> float:
    return float(workload(trace, "requests_per_s"))


def _response_ns(trace: Trace) -> float:
    return float(workload(trace, "latency_ns")["mean"])


def _stalls(evidence: Evidence) -> Finding:
    loop, apart = (
        pd.concat([delivery_waits(trace) for trace in evidence[label]])
        for label in ("epoll", "processes")
    )
    stalled, others = _stalled(loop), _stalled(apart)
    waits = median(loop["total_ns"].to_numpy(dtype=float))
    waits_apart = median(apart["total_ns"].to_numpy(dtype=float))
    return Finding(
        outcome_of(all_of(stalled.at_least(MANY), others.at_most(FEW))),
        f"{BURST} requests at once, {WORK_US / 1000:.0f} ms of work each: in epoll's loop"
        f" {stalled.value:.0%} of them waited for the handlers of others (median wait"
        f" {time_text(waits.value)}), with a process for each client {others.value:.0%}"
        f" ({time_text(waits_apart.value)}).",
        f"loop {bounds_text(stalled, percent_text)}, processes {bounds_text(others, percent_text)}",
        (
            Figure("requests stalled, epoll", stalled),
            Figure("requests stalled, processes", others),
            Figure("wait, epoll", waits, "ns"),
            Figure("wait, processes", waits_apart, "ns"),
        ),
    )


def _stalled(waits: pd.DataFrame) -> Estimate:
    """Return the share of the data that waited half the work or longer for a thread busy with other
    data."""
    busy = waits["busy_ns"] >= WORK_US * 1000 / 2
    return share(int(busy.sum()), len(busy))


_THREADS = Run("threads", connections=CLIENTS, messages=MESSAGES)
_POOL = replace(_THREADS, model="thread-pool", server_options=("--workers", str(POOL)))


def _burst(model: str) -> Run:
    return Run(model, connections=BURST, burst=BURST, rate=40.0, duration_s=1.0, work_us=WORK_US)


CLAIMS = (
    Claim(
        "threads-isolate",
        "With a thread for every connection none of them is held up by another.",
        "Most connections are held up by others without threads; with a thread each hardly any.",
        {
            "blocking": Run("blocking", connections=CLIENTS, messages=MESSAGES),
            "threads": _THREADS,
        },
        _isolates,
        repetitions=REPETITIONS,
    ),
    Claim(
        "threads-cost",
        "A thread for every connection takes up system resources.",
        "More memory per silent connection than epoll, more switches per request.",
        {
            "threads alone": scan_run("threads", 0),
            "epoll alone": scan_run("epoll", 0),
            "threads silent": scan_run("threads", SILENT),
            "epoll silent": scan_run("epoll", SILENT),
            "threads busy": _THREADS,
            "epoll busy": Run("epoll", connections=CLIENTS, messages=MESSAGES),
        },
        _cost,
        repetitions=REPETITIONS,
    ),
    Claim(
        "pool-no-better",
        "With far more requests than its bound, a pool responds not much better than none.",
        "Neither clients that stay nor clients of one request are answered sooner with the pool.",
        {
            "pool": _POOL,
            "threads": _THREADS,
            "pool passing": replace(_POOL, messages=PASSING, per_request=True),
            "threads passing": replace(_THREADS, messages=PASSING, per_request=True),
        },
        _pool,
        repetitions=POOL_REPETITIONS,
    ),
    Claim(
        "handler-stalls-loop",
        "Detecting and handling events in one loop is a disaster once a handler is slow.",
        "Most data waits for handlers of other data; with a process for each client hardly any.",
        {
            "epoll": _burst("epoll"),
            "processes": _burst("processes"),
        },
        _stalls,
        repetitions=REPETITIONS,
    ),
)
