"""Trace directories with known phases, written as SCHEMA.md says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

PHASES = ("sleep_ns", "runq_ns", "spin_ns", "check_ns", "copy_ns", "overhead_ns")

CALLS = (
    "ts_ns", "duration_ns", "cpu", "pid", "tid", "comm", "context", "call", "fd", "socket", "nfds",
    "ready", "result", "bytes", *PHASES,
)  # fmt: skip
DELIVERIES = (
    "socket", "fd", "pid", "tid", "ready_ns", "noticed_ns", "copied_ns", "bytes", "notify_ns",
    "waker_context",
)  # fmt: skip
SOCKETS = ("socket", "family", "protocol", "local", "remote")
THREADS = (
    "pid", "tid", "comm", "role", "model", "wall_ns", "user_ns", *PHASES, "other_calls_ns",
    "off_cpu_elsewhere_ns", "calls", "bytes", "voluntary_switches", "involuntary_switches",
)  # fmt: skip

START_NS = 1_000_000_000_000
PID = 4000

TRACEPOINTS = {
    "sched_switch": "sleep",
    "sys_enter_recvfrom": "overhead",
    "skb_copy_datagram_iovec": "copy",
}


RESOLUTION_NS = {
    "sleep": 300,
    "runq": 300,
    "spin": 200,
    "check": 250,
    "copy": 180,
    "overhead": 200,
}


@dataclass(frozen=True)
class Span:
    """Mean phases of one kind of call, in ns; each is drawn from half to one and a half of it."""

    call: str
    sleep: int = 0
    runq: int = 0
    spin: int = 0
    check: int = 0
    copy: int = 0
    overhead: int = 0
    bytes: int = 0


MODELS: Mapping[str, tuple[Span, ...]] = {
    "blocking": (Span("recvfrom", sleep=80_000, runq=3_000, copy=400, overhead=1_200, bytes=64),),
    "nonblocking": (
        Span("recvfrom", spin=700),
        Span("recvfrom", spin=700),
        Span("recvfrom", copy=400, overhead=1_100, bytes=64),
    ),
    "select": (
        Span("pselect6", sleep=70_000, runq=3_000, check=9_000, overhead=800),
        Span("recvfrom", copy=400, overhead=1_100, bytes=64),
    ),
    "poll": (
        Span("poll", sleep=70_000, runq=3_000, check=11_000, overhead=800),
        Span("recvfrom", copy=400, overhead=1_100, bytes=64),
    ),
    "epoll": (
        Span("epoll_wait", sleep=78_000, runq=3_000, check=600, overhead=700),
        Span("recvfrom", copy=400, overhead=1_100, bytes=64),
    ),
}
"""What a request costs in each model: the calls that serve it, in order."""


def _draw(generator: np.random.Generator, mean: int, count: int) -> npt.NDArray[np.int64]:
    if mean == 0:
        return np.zeros(count, dtype=np.int64)
    return generator.integers(mean // 2, mean + mean // 2, count, endpoint=True)


def make_calls(
    model: str, requests: int, *, threads: int = 1, connections: int = 8, seed: int = 1
) -> pd.DataFrame:
    """Return the calls of ``requests`` requests of a model, spread over threads and connections."""
    generator = np.random.default_rng(seed)
    spans = MODELS[model]
    thread = np.arange(requests) % threads
    connection = generator.integers(0, connections, requests)
    frames = []
    for order, span in enumerate(spans):
        phases = {
            column: _draw(generator, getattr(span, column.removesuffix("_ns")), requests)
            for column in PHASES
        }
        polling = span.call in ("pselect6", "poll", "epoll_wait")
        receives = not polling
        empty = pd.array([pd.NA] * requests, dtype="Int64")
        found = span.bytes > 0
        frames.append(
            pd.DataFrame(
                {
                    "cpu": generator.integers(0, 2, requests),
                    "pid": PID,
                    "tid": PID + thread,
                    "comm": "python3",
                    "context": "process",
                    "call": span.call,
                    "fd": 5 + connection
                    if receives
                    else (empty if span.call != "epoll_wait" else 4),
                    "socket": 90_000 + connection if receives else empty,
                    "nfds": empty if receives or span.call == "epoll_wait" else connections + 1,
                    "ready": empty if receives else 1,
                    "result": (span.bytes if found else -11) if receives else 1,
                    "bytes": (span.bytes if found else 0) if receives else empty,
                    **phases,
                    "request": np.arange(requests),
                    "order": order,
                }
            )
        )
    calls = pd.concat(frames, ignore_index=True)
    calls["duration_ns"] = calls[list(PHASES)].sum(axis="columns")
    calls = calls.sort_values(["tid", "request", "order"], ignore_index=True)
    # between two calls a thread spends as long in its own code as the call took, plus 5 us
    gap = 5_000
    busy = (calls["duration_ns"] + gap).groupby(calls["tid"]).cumsum()
    calls["ts_ns"] = START_NS + busy - calls["duration_ns"]
    return calls.sort_values("ts_ns", ignore_index=True)[[*CALLS]]


def make_deliveries(calls: pd.DataFrame) -> pd.DataFrame:
    """Return one arrival per receive with data: 10 us before the call's end, noticed half-way."""
    received = calls[calls["bytes"].fillna(0) > 0]
    end = received["ts_ns"] + received["duration_ns"]
    return pd.DataFrame(
        {
            "socket": received["socket"],
            "fd": received["fd"],
            "pid": received["pid"],
            "tid": received["tid"],
            "ready_ns": end - 10_000,
            "noticed_ns": end - 5_000,
            "copied_ns": end,
            "bytes": received["bytes"],
            "notify_ns": pd.array([pd.NA] * len(received), dtype="Int64"),
            "waker_context": "process",
        }
    ).reset_index(drop=True)[[*DELIVERIES]]


def make_threads(calls: pd.DataFrame, model: str | None) -> pd.DataFrame:
    """Return the ledgers that these calls imply: all time between calls is user time, bar 10 %."""
    rows = []
    for (pid, tid), own in calls.groupby(["pid", "tid"]):
        ends = own["ts_ns"] + own["duration_ns"]
        wall = int(ends.max()) - START_NS
        phases = {column: int(own[column].sum()) for column in PHASES}
        between = wall - sum(phases.values())
        rows.append(
            {
                "pid": pid,
                "tid": tid,
                "comm": "python3",
                "role": "main" if pid == tid else "thread",
                "model": model or "",
                "wall_ns": wall,
                "user_ns": between - 2 * (between // 10),
                **phases,
                "other_calls_ns": between // 10,
                "off_cpu_elsewhere_ns": between // 10,
                "calls": len(own),
                "bytes": int(own["bytes"].fillna(0).sum()),
                "voluntary_switches": int((own["sleep_ns"] > 0).sum()),
                "involuntary_switches": 0,
            }
        )
    return pd.DataFrame(rows, columns=[*THREADS])


def make_sockets(calls: pd.DataFrame) -> pd.DataFrame:
    """Return the addresses of the sockets of these calls, and of one that is not connected."""
    seen = sorted(calls["socket"].dropna().unique())
    return pd.DataFrame(
        {
            "socket": [1, *seen],
            "family": "inet",
            "protocol": "tcp",
            "local": "127.0.0.1:8080",
            "remote": [None, *(f"127.0.0.1:{40_000 + index}" for index in range(len(seen)))],
        }
    )


def make_meta(model: str | None, calls: int, deliveries: int, threads: int) -> dict[str, Any]:
    """Return a ``trace.json`` without losses."""
    counts = {"calls": calls, "deliveries": deliveries, "threads": threads}
    counts["total"] = sum(counts.values())
    return {
        "schema": 1,
        "iophase": "0.1.0",
        "kernel": "6.18.44",
        "arch": "x86_64",
        "backend": "tracepoint",
        "probes": [
            {"name": name, "phase": phase, "attached": "tracepoint", "detail": None}
            for name, phase in TRACEPOINTS.items()
        ],
        "clock": {"monotonic_ns": START_NS, "realtime_ns": 1_700_000_000_000_000_000},
        "started": START_NS,
        "stopped": START_NS + 2_000_000_000,
        "targets": [{"pid": PID, "comm": "python3"}],
        "model": model,
        "workload": None,
        "emitted": counts,
        "recorded": dict(counts),
        "lost": dict.fromkeys(counts, 0),
        "merged": 0,
        "resolution_ns": dict(RESOLUTION_NS),
        "cut_short": False,
        "command": None,
    }


def make_workload(messages: int, *, connections: int = 8, size: int = 64) -> dict[str, Any]:
    """Return what the load generator would have said."""
    return {
        "connections": connections,
        "idle": 0,
        "size": size,
        "rate": None,
        "duration_s": 2.0,
        "messages": messages,
        "bytes_sent": messages * size,
        "bytes_received": messages * size,
        "errors": 0,
        "requests_per_s": messages / 2.0,
        "latency_ns": {"p50": 90e3, "p90": 1e5, "p99": 2e5, "p99_9": 4e5, "max": 1e6, "mean": 95e3},
        "verified": messages,
    }


def write_trace(
    directory: Path,
    calls: pd.DataFrame,
    deliveries: pd.DataFrame,
    threads: pd.DataFrame,
    meta: Mapping[str, Any],
) -> Path:
    """Write the four files; missing values become empty fields."""
    directory.mkdir(parents=True)
    calls.to_csv(directory / "calls.csv", index=False, columns=[*CALLS])
    deliveries.to_csv(directory / "deliveries.csv", index=False, columns=[*DELIVERIES])
    threads.to_csv(directory / "threads.csv", index=False, columns=[*THREADS])
    make_sockets(calls).to_csv(directory / "sockets.csv", index=False, columns=[*SOCKETS])
    (directory / "trace.json").write_text(json.dumps(meta, indent=1))
    return directory


def make_trace(
    directory: Path,
    model: str = "epoll",
    requests: int = 1000,
    *,
    threads: int = 1,
    connections: int = 8,
    seed: int = 1,
    meta: Mapping[str, Any] | None = None,
) -> Path:
    """Write a consistent trace of one reference server under load; ``meta`` overrides keys."""
    calls = make_calls(model, requests, threads=threads, connections=connections, seed=seed)
    deliveries = make_deliveries(calls)
    ledgers = make_threads(calls, model)
    document = make_meta(model, len(calls), len(deliveries), len(ledgers))
    document["workload"] = make_workload(requests, connections=connections)
    document |= meta or {}
    return write_trace(directory, calls, deliveries, ledgers, document)


def make_traces(
    parent: Path, models: Sequence[str] = tuple(MODELS), requests: int = 500
) -> list[Path]:
    """Write one trace per model below ``parent``."""
    return [make_trace(parent / model, model, requests) for model in models]
