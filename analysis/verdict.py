"""The verdict on a recording in words: a few sentences, each with the numbers that support it."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.connections import connections
from analysis.delivery_waits import delivery_waits
from analysis.in_the_way import in_the_way
from analysis.ledger import LEDGER_COLUMNS
from analysis.load import Trace
from analysis.recognition import Answer
from analysis.schema import CALLS, DELIVERIES, OTHERS, SOCKETS
from analysis.thread_calls import CALL_COLUMNS
from analysis.units import share_text, time_text

__all__ = ("verdict",)

MANY_DELIVERIES = 500_000
"""Above this the reasons of the tail are not worked out: it would take longer than a recording."""
ENOUGH_FOR_P99 = 100
"""With fewer deliveries the longest is named instead."""
ENOUGH_OF_A_TAIL = 2_000
"""Of so many deliveries, the longest, it is worked out what was in their way."""
MOST = 0.5
"""What a sentence blames must make up more than this of what it explains."""
RARE = 0.5
"""A connection stands out if its share of the tail is twice its share of all deliveries."""
WORTH_NAMING = 0.01
NEARLY_ALL = 0.95

_PARTS = {
    "runq_ns": "waiting for a CPU",
    "spin_ns": "asking in vain",
    "check_ns": "asking which descriptors are ready",
    "copy_ns": "copy",
    "overhead_ns": "overhead of its receive calls",
    "user_ns": "its own code",
    "other_calls_ns": "other system calls",
    "off_cpu_elsewhere_ns": "off the CPU elsewhere",
}
_REASONS = {
    "nobody_asked": "while the thread did something else and did not ask",
    "busy": "while the thread was busy with data that had come before",
    "asleep": "while the thread slept though data was there",
    "runq": "while the thread waited for a CPU",
    "call": "inside the calls that took it",
    "copy": "in the copy itself",
}
_BETWEEN_CALLS = {"nobody_asked", "busy"}
"""Reasons that calls on all of a thread's sockets tell."""


def verdict(trace: Trace, answers: list[Answer], found: pd.DataFrame) -> list[str]:
    """Return two or three sentences that the numbers of the trace support.

    ``answers`` are the models that were recognised, ``found`` is the evidence. Raises TraceError.
    """
    return [*_where_time_goes(trace, answers, found), *_how_long_data_waits(trace)]


def _where_time_goes(trace: Trace, answers: list[Answer], found: pd.DataFrame) -> Iterator[str]:
    """Speak of the threads that receive most, and of those of the same name and model."""
    if not answers:
        yield "No traced thread made a call of the receive path."
        return
    first = answers[0]
    named = [one for one in answers if (one.comm, one.model) == (first.comm, first.model)]
    alike = _threads_of(trace, named)
    wall = int(alike["wall_ns"].sum())
    sleep = int(alike["sleep_ns"].sum())
    rest = wall - sleep
    if not wall:
        return
    who = f"{first.comm} {first.pid}"
    if len(named) > 1:
        who = f"{first.comm} ({len(named)} processes)"
    elif len(alike) > 1:
        who += f" ({len(alike)} threads)"
    asleep = f"{share_text(sleep / wall)} % of its wall time asleep"
    slept = found[found["tid"].isin(set(alike["tid"]))].groupby("call")["sleep_ns"].sum()
    if sleep and len(slept):
        most = "" if slept.max() > NEARLY_ALL * sleep else ", most of it"
        asleep += f"{most} in {slept.idxmax()}"
    sums = alike[[name for name in LEDGER_COLUMNS if name != "sleep_ns"]].sum()
    largest = sums.sort_values(ascending=False)
    parts = [
        f"{share_text(float(value) / rest)} % is {_PARTS[str(name)]}"
        for name, value in largest.items()
        if rest and value / rest >= WORTH_NAMING
    ]
    ending = f"; of the rest, {', '.join(parts[:3])}" if parts else ""
    copy = sums["copy_ns"]
    if rest and copy and not any("copy" in part for part in parts[:3]):  # 0: no probe saw it
        ending += f" (copy: {share_text(float(copy) / rest)} %)"
    yield f"{who}, {first.model}, spends {asleep}{ending}."


def _threads_of(trace: Trace, answers: list[Answer]) -> pd.DataFrame:
    """Return the ledgers of the threads that answers are about."""
    threads = trace.threads
    tids = {tid for answer in answers for tid in answer.tids}
    joined = {answer.pid for answer in answers if OTHERS in answer.tids}
    return threads[threads["tid"].isin(tids) | threads["pid"].isin(joined)]


def _how_long_in_sums(trace: Trace) -> Iterator[str]:
    """Speak of the worst connection, where no single delivery was kept."""
    table = connections(trace)
    known = table.dropna(subset=["longest_ready_ns", "delivery_p99_ns"])
    if known.empty:
        return
    worst = known.to_dict("records")[0]
    p99 = [time_text(float(end)) for end in (known["delivery_p99_ns"].agg(["min", "max"]))]
    who = worst["remote"] if isinstance(worst["remote"], str) else f"socket {worst['socket']}"
    yield (
        f"The p99 of how long data lay ready is {p99[0]} to {p99[1]}, connection by connection;"
        f" the longest time was {time_text(float(worst['longest_ready_ns']))}, from {who}."
    )


def _how_long_data_waits(trace: Trace) -> Iterator[str]:
    if trace.meta.get("summary"):
        yield from _how_long_in_sums(trace)
        return
    arrivals = trace.read(DELIVERIES, ["socket", "ready_ns", "copied_ns"]).dropna()
    arrivals = arrivals.astype("int64")
    waited = (arrivals["copied_ns"] - arrivals["ready_ns"]).rename("waited")
    if waited.empty:
        return
    median = time_text(float(waited.median()))
    if len(waited) < ENOUGH_FOR_P99:
        longest = time_text(float(waited.max()))
        yield f"Data lay ready for {median} at the median and {longest} at most."
        return
    limit = float(waited.quantile(0.99))
    blamed = _tail_of_one_connection(trace, arrivals["socket"], waited >= limit)
    if blamed is None and len(waited) <= MANY_DELIVERIES:
        blamed = _reason_of_tail(trace, limit)
    ending = f"; {blamed}" if blamed else ""
    yield f"Data lay ready for {median} at the median and {time_text(limit)} at p99{ending}."


def _tail_of_one_connection(trace: Trace, sockets: pd.Series, tail: pd.Series) -> str | None:
    """Name the connection that most of the tail is on, unless most of everything is."""
    share_of_tail = sockets[tail].value_counts(normalize=True)
    socket, share = share_of_tail.index[0], float(share_of_tail.iloc[0])
    everywhere = float((sockets == socket).mean())
    if share <= MOST or everywhere > RARE * share:
        return None
    return (
        f"{share_text(share)} % of the tail is on one connection, {_remote(trace, int(socket))},"
        f" which has {share_text(everywhere)} % of the data"
    )


def _reason_of_tail(trace: Trace, limit: float) -> str | None:
    """Say what most of the tail's time was spent waiting for."""
    waits = delivery_waits(trace)
    tail = waits[waits["total_ns"] >= limit]
    total = int(tail["total_ns"].sum())
    if not total:
        return None
    shares = {reason: float(tail[f"{reason}_ns"].sum()) / total for reason in _REASONS}
    reason = max(shares, key=lambda name: shares[name])
    if shares[reason] <= MOST or (reason in _BETWEEN_CALLS and _lacks_sockets(trace)):
        return None
    if reason == "busy" and (blamed := _whose_service(trace, tail)):
        return blamed
    return f"{share_text(shares[reason])} % of the tail's time passed {_REASONS[reason]}"


def _lacks_sockets(trace: Trace) -> bool:
    """Tell whether what a thread did on other sockets was left out by the user's wish."""
    narrowed = trace.meta.get("narrowed") or {}
    return (trace.meta.get("sample") or 1) > 1 or bool(narrowed.keys() & {"fds", "peers"})


def _whose_service(trace: Trace, tail: pd.DataFrame) -> str | None:
    """Name the connection that the thread was serving for most of the tail's time, if it is one."""
    calls = trace.read(CALLS, list(CALL_COLUMNS))
    longest = tail.nlargest(ENOUGH_OF_A_TAIL, "total_ns")
    found = in_the_way(calls, longest)
    if found is None or found.share <= MOST:
        return None
    return (
        f"{share_text(found.share)} % of the tail's time passed while the thread served"
        f" {_remote(trace, found.socket)}, which takes it {time_text(found.serving_ns)} at a time"
    )


def _remote(trace: Trace, socket: int) -> str:
    names = trace.read(SOCKETS, list(SOCKETS.columns)).set_index("socket")["remote"]
    remote = names[~names.index.duplicated(keep="last")].get(socket)
    return remote if isinstance(remote, str) else f"socket {socket}"
