"""What connecting and running came to, in one process of a load."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from servers.load_latency import Latencies

__all__ = ("Connected", "Tally")


@dataclass(frozen=True)
class Connected:
    """How connecting went: busy and idle connections that stand, and those still trying."""

    busy: int
    idle: int
    pending: int


@dataclass
class Tally:
    """What a run came to; times in ns of CLOCK_MONOTONIC."""

    started_ns: int = 0
    stopped_ns: int = 0
    connections_made: int = 0
    connections_served: int = 0
    messages: int = 0
    verified: int = 0
    unsent: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    idle_open: int = 0
    cpu_s: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    latencies: Latencies = field(default_factory=Latencies)
