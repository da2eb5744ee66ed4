"""What a plain copy of memory costs on this host: the line to hold a kernel's copy against."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np

__all__ = ("memcpy_times",)

ROUNDS = 300
"""The fastest of so many rounds: what the copy costs when nothing disturbs it."""
BYTES_PER_ROUND, CALLS_PER_ROUND = 1 << 20, 256
"""At most so much in a round: it takes a tenth of a millisecond, so that many are left alone by the
scheduler, and the clock's own cost vanishes in it."""


def memcpy_times(sizes: Iterable[int]) -> dict[int, float]:
    """Return the time of one memcpy of each size, in ns; what fits into the cache is in it.

    The cost of calling it from here, that of copying one byte, is taken off; what is then less than
    nothing is 0.
    """
    nothing = _time(1)
    return {size: max(_time(size) - nothing, 0.0) for size in sizes}


def _time(size: int) -> float:
    source, target = np.ones(size, dtype=np.uint8), np.empty(size, dtype=np.uint8)
    turns = min(max(BYTES_PER_ROUND // size, 1), CALLS_PER_ROUND)
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter_ns()
        for _ in range(turns):
            np.copyto(target, source)
        best = min(best, (time.perf_counter_ns() - began) / turns)
    return best
