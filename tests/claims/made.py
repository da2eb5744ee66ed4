"""Traces made for the judges: only what they look at is said, the rest is filled in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.claims.claim import SEEN_FILE, Missing, Verdict
from analysis.claims.judging import judge
from analysis.claims.registry import choose
from tests.analysis.synthetic import (
    CALLS,
    DELIVERIES,
    PHASES,
    PID,
    SOCKETS,
    START_NS,
    THREADS,
    make_meta,
    make_workload,
)

__all__ = ("MS", "Maker", "Rows", "call", "delivery", "judged", "thread")

Rows = Iterable[dict[str, Any]]

MS = 1_000_000


def call(name: str, **columns: Any) -> dict[str, Any]:
    """Return a call of the main thread; phases that are not named are 0."""
    row: dict[str, Any] = dict.fromkeys(PHASES, 0)
    row |= {"call": name, "pid": PID, "tid": PID, "context": "process", "result": 0} | columns
    return row | {"duration_ns": sum(row[phase] or 0 for phase in PHASES)}


def delivery(wait_ns: int, socket: int = 1, **columns: Any) -> dict[str, Any]:
    """Return a delivery that took so long from its arrival to the end of its copy."""
    ready = columns.pop("ready_ns", START_NS)
    times = {"ready_ns": ready, "noticed_ns": ready + wait_ns, "copied_ns": ready + wait_ns}
    return {"pid": PID, "tid": PID, "socket": socket, "bytes": 64, **times, **columns}


def thread(**columns: Any) -> dict[str, Any]:
    """Return a main thread that was asleep for a second."""
    nothing = dict.fromkeys(("user_ns", *PHASES, "other_calls_ns", "off_cpu_elsewhere_ns"), 0)
    counts = {"calls": 0, "bytes": 0, "voluntary_switches": 0, "involuntary_switches": 0}
    return {
        "pid": PID,
        "tid": PID,
        "wall_ns": 1000 * MS,
        **nothing,
        "sleep_ns": 1000 * MS,
        **counts,
        **columns,
    }


class Maker:
    """Writes traces below a directory, each under a name of its own."""

    def __init__(self, parent: Path) -> None:
        self.parent = parent
        self.made = 0

    def __call__(
        self,
        calls: Rows = (),
        deliveries: Rows = (),
        threads: Rows | None = None,
        workload: Mapping[str, Any] | None = None,
        seen: Mapping[str, Any] | None = None,
        lost: int = 0,
    ) -> Path:
        """Write a trace; ``workload`` completes that of a load of 100 messages."""
        self.made += 1
        directory = self.parent / f"trace.{self.made}"
        directory.mkdir(parents=True)
        tables = {
            "calls": (_in_order(calls), CALLS),
            "deliveries": (list(deliveries), DELIVERIES),
            "threads": ([thread()] if threads is None else list(threads), THREADS),
            "sockets": ([], SOCKETS),
        }
        for name, (rows, columns) in tables.items():
            more = dict.fromkeys(key for row in rows for key in row if key not in columns)
            frame = pd.DataFrame(rows, columns=[*columns, *more])
            frame.convert_dtypes().to_csv(directory / f"{name}.csv", index=False)
        counts = [len(rows) for rows, _ in tables.values()][:3]
        meta = make_meta(None, *counts)
        meta["workload"] = make_workload(100, connections=1) | dict(workload or {})
        meta["lost"]["total"] = lost
        (directory / "trace.json").write_text(json.dumps(meta))
        (directory / SEEN_FILE).write_text(json.dumps(seen or {}))
        return directory


def _in_order(calls: Rows) -> list[dict[str, Any]]:
    """Lay calls that do not say when they began one after the other."""
    placed, now = [], START_NS
    for row in calls:
        began = row.get("ts_ns", now)
        placed.append({"ts_ns": began, **row})
        now = began + row["duration_ns"] + 1000
    return placed


def judged(name: str, traces: Mapping[str, Sequence[Path] | Missing]) -> Verdict:
    """Return the verdict on a claim whose experiments left these traces, by label."""
    [claim] = choose([name])
    return judge(claim, {claim.experiments[label].name: found for label, found in traces.items()})
