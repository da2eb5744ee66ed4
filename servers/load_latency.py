"""Latencies in bounded memory: a histogram with log-linear buckets, as HdrHistogram has them.

A bucket is at most 1/1024 of its value wide, so a percentile is right to 0.05 %; largest value
and mean are exact. http://hdrhistogram.org
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ("Latencies",)

STEPS = 1024  # buckets in each octave: 0.1 % wide
OCTAVES = 44  # up to 2**54 ns, 208 days
PER_MILLE = {"p50": 500, "p90": 900, "p99": 990, "p99_9": 999}  # 99.9 / 100 has no exact float


class Latencies:
    """Counts of latencies in nanoseconds."""

    def __init__(self) -> None:
        self.counts = np.zeros(STEPS * (OCTAVES + 1), np.int64)
        self.total = 0
        self.max = 0

    def add(self, values: list[int]) -> None:
        """Count these latencies, in ns."""
        if not values:
            return
        column = np.maximum(np.asarray(values, np.int64), 0)
        shift = np.maximum(np.frexp(column.astype(np.float64))[1] - STEPS.bit_length(), 0)
        counts = np.bincount(shift * STEPS + (column >> shift))
        self.counts[: len(counts)] += counts
        self.total += int(column.sum())
        self.max = max(self.max, int(column.max()))

    def to_json(self) -> dict[str, Any]:
        """Return the filled buckets, for `merge` in another process."""
        filled = np.flatnonzero(self.counts)
        return {
            "buckets": filled.tolist(),
            "counts": self.counts[filled].tolist(),
            "total": self.total,
            "max": self.max,
        }

    def merge(self, other: dict[str, Any]) -> None:
        """Add what `to_json` of another process gave."""
        self.counts[np.asarray(other["buckets"], np.int64)] += np.asarray(other["counts"], np.int64)
        self.total += other["total"]
        self.max = max(self.max, other["max"])

    def summary(self) -> dict[str, int | None]:
        """Return p50, p90, p99, p99_9, max and mean in ns; None without any latency."""
        n = int(self.counts.sum())
        if n == 0:
            return dict.fromkeys((*PER_MILLE, "max", "mean"))
        ranks = -(-np.asarray([*PER_MILLE.values()]) * n // 1000)
        bucket = np.searchsorted(np.cumsum(self.counts), ranks)
        shift = np.maximum(bucket // STEPS - 1, 0)
        middle = ((bucket - shift * STEPS) << shift) + ((1 << shift) >> 1)
        values = np.minimum(middle, self.max)
        return {
            **{name: int(value) for name, value in zip(PER_MILLE, values, strict=True)},
            "max": self.max,
            "mean": self.total // n,
        }
