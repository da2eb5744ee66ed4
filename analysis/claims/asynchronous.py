"""Asynchronous I/O by four interfaces: is the process blocked, and in which phase?

The trial asks for a receive before there is any data, goes on in user space until it sees that the
receive is complete, and never chooses to wait: so whatever sleeps or copies was not asked for.
"""

from __future__ import annotations

import functools

import pandas as pd

from analysis.claims.claim import Claim, Evidence, Figure, Finding, outcome_of
from analysis.claims.estimate import all_of, share
from analysis.claims.experiments import Trial
from analysis.claims.measures import bounds_text, main_thread, percent_text, received
from analysis.schema import CALLS
from analysis.units import time_text

__all__ = ("CLAIMS",)

RARELY = 0.1
"""A phase does not block the process if it does so in less than this share of the receives."""

INTERFACES = {
    "posix-aio": "POSIX AIO",
    "native-aio": "native AIO on a socket",
    "io_uring": "io_uring",
    "io_uring-sqpoll": "io_uring with SQPOLL",
}

_HELPERS = {
    "aio": "a helper thread of the C library, blocked in both phases in its place",
    "iou-sqp": "the kernel's poller thread",
    "iou-wrk": "a worker thread of the kernel",
}


def _blocks(evidence: Evidence, interface: str) -> Finding:
    [trace], [seen] = evidence["trial"], evidence.seen("trial")
    main, rounds = main_thread(trace), int(seen["rounds"])
    data = received(trace)
    data = data[_asks(data)]
    calls = trace.read(CALLS, ["pid", "tid", "socket", "call", "sleep_ns"])
    own = calls[(calls["tid"] == main) & (_asks(calls))]
    slept = own[own["sleep_ns"] > 0]
    waited = share(min(len(slept), rounds), rounds)
    by_main = data[data["tid"] == main]
    copied = share(len(by_main), len(data))
    answer = all_of(waited.at_most(RARELY), copied.at_most(RARELY))
    return Finding(
        outcome_of(answer),
        f"Waiting: {_waiting(len(slept), rounds, slept)}. Copying: {_copying(data, main)}.",
        f"blocked while waiting {bounds_text(waited, percent_text)}, copying"
        f" {bounds_text(copied, percent_text)}",
        (
            Figure("receives whose wait blocked the process", waited),
            Figure("receives that the process copied", copied),
        ),
    )


def _asks(calls: pd.DataFrame) -> pd.Series:
    """Tell which calls have to do with a receive: not the trial's own pipe."""
    return calls["socket"].notna() | calls["call"].astype("string").str.startswith("io_")


def _waiting(slept: int, rounds: int, calls: pd.DataFrame) -> str:
    if not slept:
        return f"none of {rounds} receives put the process to sleep"
    names = " and ".join(sorted(set(calls["call"].astype("string"))))
    typical = time_text(float(calls["sleep_ns"].median()))
    return f"{slept} of {rounds} receives put it to sleep in {names} (median {typical})"


def _copying(data: pd.DataFrame, main: int) -> str:
    parts = []
    for context, rows in data.groupby(data["context"].astype("string")):
        own = rows["tid"] == main
        for whose, count in (("own", int(own.sum())), ("other", int((~own).sum()))):
            if not count:
                continue
            who = "the process itself" if whose == "own" else _HELPERS.get(context, context)
            how = ", interrupted for it" if whose == "own" and context == "task-work" else ""
            parts.append(f"{count} by {who}{how}")
    copy = time_text(float(data["copy_ns"].median()))
    return f"{', '.join(parts)} ({copy} for 16 KiB)"


CLAIMS = tuple(
    Claim(
        f"{interface}-never-blocks",
        f"Asynchronous I/O ({words}) blocks the process in neither phase.",
        "No receive puts the asking thread to sleep, and others copy for it.",
        {"trial": Trial("asynchronous_receive", (interface,))},
        functools.partial(_blocks, interface=interface),
    )
    for interface, words in INTERFACES.items()
)
