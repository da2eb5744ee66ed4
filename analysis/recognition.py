"""Which I/O model each process uses: concluded from what was seen, with the evidence.

One process can use several models, an acceptor that blocks beside workers on epoll; then there are
several answers. Where what was seen does not tell, the answer is ``unknown``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.activity import Activity, activities
from analysis.evidence import evidence
from analysis.load import Trace
from analysis.schema import INTERESTS

__all__ = ("MODELS", "Answer", "answers", "recognise")

MODELS = (
    "blocking", "non-blocking", "select", "poll", "epoll", "epoll level-triggered",
    "epoll edge-triggered", "epoll one-shot", "signal-driven", "POSIX AIO", "native AIO",
    "native AIO poll", "io_uring", "io_uring poll", "io_uring SQPOLL", "unknown",
)  # fmt: skip
"""``epoll`` alone: no ``epoll_ctl`` was seen, and nothing stood when tracing began."""

_FAMILIES = {"select": ("select", "pselect6"), "poll": ("poll", "ppoll")}
_EPOLL = ("epoll_wait", "epoll_pwait", "epoll_pwait2")
_GETEVENTS = ("io_getevents", "io_pgetevents")
_SIGNALS = ("rt_sigsuspend", "pause", "rt_sigtimedwait")
_ACCEPTS = ("accept", "accept4")
_RECEIVES = ("read", "readv", "recvfrom", "recvmsg", "recvmmsg")

_SELDOM = 0.05
"""A receive can sleep for another reason, a page that must be brought in, a lock: below this share
of a thread's receives, and where something else waits for data, it says nothing of the model. The
same holds for a waiting call that is made once beside many of another kind."""


@dataclass(frozen=True)
class Answer:
    """A model that a process uses, in some of its threads, and what shows it."""

    pid: int
    comm: str
    model: str
    """One of ``MODELS``."""
    tids: tuple[int, ...]
    evidence: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.model}: {', '.join(self.evidence)}"


def recognise(trace: Trace) -> list[Answer]:
    """Return the answers for a trace, the process and the model that received most first.

    Raises TraceError.
    """
    return answers(evidence(trace), trace.threads, trace.meta.get("standing") or [])


def answers(
    found: pd.DataFrame, threads: pd.DataFrame, standing: Sequence[Mapping[str, Any]] = ()
) -> list[Answer]:
    """Return the answers for evidence, rows of ``threads.csv``, and what stood before."""
    names = _names(threads)
    interests = _interests(threads, standing)
    grouped: dict[tuple[int, str], list[Activity]] = {}
    nothing = dict.fromkeys(INTERESTS, 0)
    received: dict[int, int] = {}
    everything = activities(found)
    signalled = _signalled(everything, interests)
    polled = {a.pid for a in everything if a.in_context("iou-sqp")}
    for one in everything:
        received[one.pid] = received.get(one.pid, 0) + one.total("bytes")
        for model in _models(one, interests.get(one.pid, nothing), one.pid in signalled):
            if model == "io_uring" and one.pid in polled:
                model = "io_uring SQPOLL"
            grouped.setdefault((one.pid, model), []).append(one)
    _join_blocking(grouped)
    _join_told(grouped)
    _leave_out_signal_threads(grouped)
    brought = {key: sum(one.total("bytes") for one in members) for key, members in grouped.items()}
    said = [
        Answer(
            pid,
            names.get(pid, ""),
            model,
            tuple(sorted(one.tid for one in members)),
            (
                *_reasons(model, Activity.together(members), interests.get(pid, nothing)),
                *_sharing(model, members),
            ),
        )
        for (pid, model), members in grouped.items()
    ]
    return sorted(
        said,
        key=lambda one: (-received[one.pid], one.pid, -brought[one.pid, one.model], -len(one.tids)),
    )


def _join_blocking(grouped: dict[tuple[int, str], list[Activity]]) -> None:
    """Count threads that found data at once among their siblings that blocked in the same calls.

    Where a process has a thread for each connection, some find their only request there already: a
    thread that has no call to wait in, and never met EAGAIN, does what the others do.
    """
    for pid, model in [key for key in grouped if key[1] == "unknown"]:
        if (blocking := grouped.get((pid, "blocking"))) is None:
            continue
        calls = {name for one in blocking for name, _ in one.by_call() if name in _RECEIVES}
        alike = [one for one in grouped[pid, model] if {name for name, _ in one.by_call()} <= calls]
        blocking += alike
        grouped[pid, model] = [one for one in grouped[pid, model] if one not in alike]
        if not grouped[pid, model]:
            del grouped[pid, model]


def _join_told(grouped: dict[tuple[int, str], list[Activity]]) -> None:
    """Count threads that only receive among those of their process that wait for sockets.

    Where one thread waits and others receive (the I/O threads of redis), these never sleep, and
    meet EAGAIN only after data. That they were told is concluded only if nothing else can be: the
    process waits in one way, and who waits receives from such sockets, too, or they do not block.
    """
    for pid, model in [key for key in grouped if key[1] in ("unknown", "non-blocking")]:
        waiting = [other for number, other in grouped if number == pid and _multiplexes(other)]
        if len(waiting) != 1 or (pid, "blocking") in grouped:
            continue
        shares = any(one.total("received", *_RECEIVES) for one in grouped[pid, waiting[0]])
        told = [one for one in grouped[pid, model] if _was_told(one, shares)]
        grouped[pid, waiting[0]] += told
        grouped[pid, model] = [one for one in grouped[pid, model] if one not in told]
        if not grouped[pid, model]:
            del grouped[pid, model]


def _multiplexes(model: str) -> bool:
    return model in _FAMILIES or model.startswith("epoll")


def _was_told(one: Activity, shares: bool) -> bool:
    again, drained = one.total("again", *_RECEIVES), one.total("drained", *_RECEIVES)
    only = one.calls(*_RECEIVES) == one.calls() and one.total("received", *_RECEIVES) > 0
    return only and again == drained and (shares or drained > 0)


def _leave_out_signal_threads(grouped: dict[tuple[int, str], list[Activity]]) -> None:
    """Forget threads that only wait for signals, where others of their process do the work."""
    for pid, model in [key for key in grouped if key[1] == "unknown"]:
        if any(other == pid for other, known in grouped if known != "unknown"):
            rest = [one for one in grouped[pid, model] if one.calls(*_SIGNALS) != one.calls()]
            grouped[pid, model] = rest
            if not rest:
                del grouped[pid, model]


def _names(threads: pd.DataFrame) -> dict[int, str]:
    """Return what each process is called: its main thread's name, or that of any."""
    ordered = threads.sort_values("tid", ascending=False)
    main = ordered["pid"] == ordered["tid"]
    named = pd.concat([ordered[~main], ordered[main]])
    return dict(zip(named["pid"].astype(int), named["comm"].astype(str), strict=True))


def _interests(
    threads: pd.DataFrame, standing: Iterable[Mapping[str, Any]]
) -> dict[int, dict[str, int]]:
    """Return per process how often it asked to be told of sockets, and how, before and since."""
    known = [name for name in INTERESTS if name in threads.columns]
    total: dict[int, dict[str, int]] = {}
    for row in threads.groupby("pid")[known].sum().reset_index().to_dict("records"):
        total[int(row["pid"])] = {name: int(row.get(name, 0)) for name in INTERESTS}
    for before in standing:
        counts = total.setdefault(int(before["pid"]), dict.fromkeys(INTERESTS, 0))
        for name in INTERESTS:
            counts[name] += int(before.get(name, 0))
    return total


def _signalled(
    everything: Iterable[Activity], interests: Mapping[int, Mapping[str, int]]
) -> set[int]:
    """Return the processes that wait for signals, have sockets which send them, and receive.

    Only waiting tells nothing: nginx's master waits for its own signals, and asks for SIGIO, too.
    """
    wait, receive = set(), set()
    for one in everything:
        if one.calls(*_SIGNALS):
            wait.add(one.pid)
        if one.total("received", *_RECEIVES):
            receive.add(one.pid)
    return {pid for pid in wait & receive if interests.get(pid, {}).get("sigio_sockets")}


def _models(one: Activity, interest: Mapping[str, int], signalled: bool) -> list[str]:
    """Return the models that a thread's activity shows; ``unknown`` if there is none."""
    if one.in_context("aio"):
        return ["POSIX AIO"]
    models = [*_asynchronous(one), *_multiplexing(one, interest)]
    if signalled and one.calls(*_SIGNALS):
        models.append("signal-driven")
    if _blocks(one, waits=bool(models)):
        models.append("blocking")
    if not models and one.total("again", *_RECEIVES, *_ACCEPTS):
        models.append("signal-driven" if signalled else "non-blocking")
    return models or ["unknown"]


def _asynchronous(one: Activity) -> list[str]:
    if one.in_context("iou-sqp"):
        return ["io_uring"]
    models = []
    if one.calls("io_uring") or one.total("bytes", "io_uring_enter") or one.in_context("iou-wrk"):
        models.append("io_uring")
    elif one.waits("io_uring_enter"):  # some libraries use a ring for other work only
        models.append("io_uring poll" if one.total("bytes", *_RECEIVES) else "io_uring")
    if one.total("bytes", "io_submit"):
        models.append("native AIO")
    elif one.calls("io_submit") and one.calls(*_GETEVENTS):
        models.append("native AIO poll" if one.total("bytes", *_RECEIVES) else "native AIO")
    return models


def _multiplexing(one: Activity, interest: Mapping[str, int]) -> list[str]:
    """Return the calls that really wait: that slept, or that reported something."""
    families = {**_FAMILIES, _epoll(interest): _EPOLL}
    most = max(one.calls(*calls) for calls in families.values())
    return [
        name
        for name, calls in families.items()
        if one.waits(*calls) and one.calls(*calls) > _SELDOM * most
    ]


def _epoll(interest: Mapping[str, int]) -> str:
    if interest["epoll_oneshot"]:
        return "epoll one-shot"
    if interest["epoll_edge"]:
        return "epoll edge-triggered"
    return "epoll level-triggered" if interest["epoll_level"] else "epoll"


def _blocks(one: Activity, *, waits: bool) -> bool:
    slept = one.total("slept", *_RECEIVES)
    enough = _SELDOM * one.calls(*_RECEIVES) if waits else 0
    if slept > enough:
        return True
    return not waits and one.total("slept", *_ACCEPTS) > 0


def _of(part: int, whole: int, what: str) -> str:
    return f"all {whole:,} {what}" if part == whole > 1 else f"{part:,} of {whole:,} {what}"


def _reasons(model: str, seen: Activity, interest: Mapping[str, int]) -> list[str]:
    """Return what shows a model, in words with numbers."""
    if model.startswith("epoll"):
        return [*_triggers(model, interest), *_waiting(seen, _EPOLL), *_receiving(seen)]
    if model in _FAMILIES:
        return [*_waiting(seen, _FAMILIES[model]), *_receiving(seen)]
    if model == "blocking":
        return list(_blocking(seen))
    if model == "non-blocking":
        again = seen.total("again", *_RECEIVES)
        asked = seen.calls(*_RECEIVES)
        found = [_of(again, asked, "receives found nothing (EAGAIN)")] if asked else []
        return [*found, "no call waits"]
    if model == "signal-driven":
        return [_sigio(interest), *_slept_in(seen, _SIGNALS), *_receiving(seen)]
    if model == "POSIX AIO":
        calls = f"{seen.in_context('aio'):,} reads by glibc's helper threads"
        return [calls, *_receiving(seen)]
    if model.startswith("native AIO"):
        return [*_aio(seen), *_receiving(seen)]
    if model.startswith("io_uring"):
        return [*_io_uring(seen), *_receiving(seen)]
    return list(_undecided(seen, interest))


def _triggers(model: str, interest: Mapping[str, int]) -> list[str]:
    level, edge, oneshot = (interest[f"epoll_{kind}"] for kind in ("level", "edge", "oneshot"))
    total = level + edge
    if model == "epoll":
        return ["no epoll_ctl on a socket was seen: level- or edge-triggered is unknown"]
    flag, count = {
        "epoll one-shot": ("EPOLLONESHOT", oneshot),
        "epoll edge-triggered": ("EPOLLET", edge),
        "epoll level-triggered": ("neither EPOLLET nor EPOLLONESHOT", level),
    }[model]
    return [f"{_of(count, total, 'epoll_ctl on sockets')} with {flag}"]


def _waiting(seen: Activity, calls: tuple[str, ...]) -> list[str]:
    names = "/".join(name for name in calls if seen.calls(name))
    total = seen.calls(*calls)
    said = [f"{_of(seen.total('slept', *calls), total, names)} slept"]
    if seen.total("single", *calls) == total:
        said.append("always for one descriptor")
    elif largest := max(seen.largest(name) for name in calls):
        said.append(f"for up to {largest:,} descriptors")
    return said


def _slept_in(seen: Activity, calls: tuple[str, ...]) -> list[str]:
    return [
        f"{_of(seen.total('slept', name), seen.calls(name), name)} slept"
        for name in calls
        if seen.calls(name)
    ]


def _sharing(model: str, members: Sequence[Activity]) -> list[str]:
    """Say how many threads receive what others of them wait for."""
    if not _multiplexes(model):
        return []
    calls = _FAMILIES.get(model, _EPOLL)
    told = sum(not one.calls(*calls) for one in members)
    return [f"{told:,} thread{'s' * (told != 1)} only receive{'s' * (told == 1)}"] if told else []


def _receiving(seen: Activity) -> list[str]:
    """Say how the receives of the process's own threads went."""
    asked, got = seen.calls(*_RECEIVES), seen.total("received", *_RECEIVES)
    said = []
    if got:
        slept = seen.total("slept", *_RECEIVES)
        said.append(
            f"{_of(slept, asked, 'receives slept')}"
            if slept
            else f"none of {asked:,} receives slept"
        )
    if drained := seen.total("drained", *_RECEIVES):
        said.append(f"{drained:,} times drained to EAGAIN")
    elif again := seen.total("again", *_RECEIVES):
        said.append(f"{again:,} found nothing (EAGAIN)")
    if not seen.total("bytes") and (accepts := seen.calls(*_ACCEPTS)):
        said.append(f"accepts ({accepts:,} calls), receives nothing")
    return said


def _blocking(seen: Activity) -> Iterable[str]:
    if asked := seen.calls(*_RECEIVES):
        yield f"{_of(seen.total('slept', *_RECEIVES), asked, 'receives slept')} until data came"
    if slept := seen.total("slept", *_ACCEPTS):
        yield f"{_of(slept, seen.calls(*_ACCEPTS), 'accepts slept')}"
    if again := seen.total("again", *_RECEIVES):
        yield f"{again:,} ended with EAGAIN (a time limit, or MSG_DONTWAIT)"


def _sigio(interest: Mapping[str, int]) -> str:
    asked = interest["sigio_sockets"]
    return f"{asked:,} socket{'s' * (asked != 1)} with O_ASYNC"


def _aio(seen: Activity) -> Iterable[str]:
    yield f"{seen.calls('io_submit'):,} io_submit"
    if seen.total("bytes", "io_submit"):
        yield (
            f"{seen.total('bytes', 'io_submit'):,} bytes were received inside io_submit,"
            f" which slept {seen.total('slept', 'io_submit'):,} times: not asynchronous"
        )
    yield from _slept_in(seen, _GETEVENTS)


def _io_uring(seen: Activity) -> Iterable[str]:
    if enters := seen.calls("io_uring_enter"):
        slept = seen.total("slept", "io_uring_enter")
        yield f"{_of(slept, enters, 'io_uring_enter')} slept"
    for context, who in (
        ("task-work", "in task work"),
        ("iou-wrk", "by io_uring's workers"),
        ("iou-sqp", "by the SQPOLL thread"),
    ):
        if calls := seen.in_context(context):
            yield f"{calls:,} receives {who}"


def _undecided(seen: Activity, interest: Mapping[str, int]) -> Iterable[str]:
    got, asked = seen.total("received", *_RECEIVES), seen.calls(*_RECEIVES)
    if signals := seen.calls(*_SIGNALS):
        yield f"{signals:,} wait{'s' * (signals != 1)} for signals"
        yield _sigio(interest) if interest["sigio_sockets"] else "no socket was seen to send any"
    if got:
        yield f"{got:,} receives found data at once: none waited, none failed"
    elif asked:
        yield f"{asked:,} receives brought nothing and none waited"
    elif signals:
        yield "no receive"
    else:
        yield ", ".join(f"{count:,} {name}" for name, count in seen.by_call()) + ": too little"
