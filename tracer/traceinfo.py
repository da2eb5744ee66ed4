"""``trace.json``: what is known of a trace beside its rows. SCHEMA.md documents every key."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypedDict

from tracer.convert import Converted
from tracer.standing import Standing

__all__ = ("SCHEMA", "Clock", "Counts", "ProbeState", "Target", "TraceInfo")

SCHEMA = 1
"""Raised when a reader of the files could misunderstand them."""


class Clock(TypedDict):
    """Two clocks at one instant."""

    monotonic_ns: int
    realtime_ns: int


class Target(TypedDict):
    """A process that the user wished to trace."""

    pid: int
    comm: str


class ProbeState(TypedDict):
    """What became of a probe."""

    name: str
    phase: str
    attached: str | None
    """The backend that attached it; None when it is not attached."""
    detail: str | None
    """Why it is not attached."""
    hits: int | None
    """Function probes: how often the probe met a traced thread or socket."""


class Counts(TypedDict):
    """Numbers of records by kind; ``total`` has the names and sockets too."""

    calls: int
    deliveries: int
    threads: int
    total: int


@dataclass(frozen=True)
class TraceInfo:
    """The content of ``trace.json``; times in ns of CLOCK_MONOTONIC, None is unknown."""

    iophase: str
    kernel: str
    arch: str
    backend: str
    clock: Clock
    started: int
    stopped: int | None = None
    schema: int = SCHEMA
    cut_short: bool = False
    targets: list[Target] = field(default_factory=list)
    refused: list[Target] = field(default_factory=list)
    selection: dict[str, Any] | None = None
    narrowed: dict[str, Any] | None = None
    sample: int = 1
    summary: bool = False
    rotate: int | None = None
    left_out: int = 0
    standing: list[Standing] = field(default_factory=list)
    command: list[str] | None = None
    model: str | None = None
    workload: dict[str, Any] | None = None
    probes: list[ProbeState] = field(default_factory=list)
    emitted: Counts | None = None
    recorded: Counts | None = None
    lost: Counts | None = None
    merged: int | None = None
    returns_missed: int | None = None
    threads_untraced: int | None = None
    sockets_untraced: int | None = None
    unclosed: int = 0
    resolution_ns: dict[str, int] = field(default_factory=dict)

    def with_converted(self, done: Converted) -> TraceInfo:
        """Return this with what the conversion found out."""
        recorded = Counts(
            calls=done.calls,
            deliveries=done.deliveries,
            threads=done.threads,
            total=done.records - done.unreadable - done.left_out,
        )
        return replace(
            self,
            recorded=recorded,
            left_out=self.left_out + done.left_out,
            stopped=done.last_ns if self.stopped is None else self.stopped,
            unclosed=done.unclosed_calls + done.unclosed_threads,
        )

    def to_json(self) -> str:
        """Return the text of ``trace.json``."""
        return json.dumps({"schema": self.schema, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TraceInfo:
        """Parse the text of a ``trace.json``; raise ``ValueError`` when it is not one we know."""
        try:
            content = json.loads(text)
        except ValueError as error:
            raise ValueError(f"cut off or damaged: not valid JSON ({error})") from error
        if not isinstance(content, dict) or "schema" not in content:
            raise ValueError("not a trace of iophase: it has no schema")
        if content["schema"] != SCHEMA:
            raise ValueError(
                f"schema {content['schema']} is unknown (known: {SCHEMA}):"
                " read it with the version of iophase that made it"
            )
        known = {item.name for item in fields(cls)}
        try:
            return cls(**{name: value for name, value in content.items() if name in known})
        except TypeError as error:
            raise ValueError(f"damaged: keys are missing ({error})") from error
