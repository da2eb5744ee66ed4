"""When messages are due in an open loop, made ahead a block at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from servers.load_options import LoadOptions

__all__ = ("due_times",)

BLOCK = 4096  # messages made at once; a block costs some 50 us


def due_times(options: LoadOptions, start_ns: int, end_ns: int) -> Iterator[int]:
    """Yield each message's intended time in ns of CLOCK_MONOTONIC, in order, before `end_ns`.

    Constant arrivals start at `start_ns`, one every burst/rate seconds; Poisson arrivals have
    exponential gaps of that mean.
    """
    assert options.rate is not None
    gap = options.burst / options.rate * 1e9
    random = np.random.default_rng(options.seed)
    arrivals = max(1, BLOCK // options.burst)
    made = 0
    last = float(start_ns)
    while True:
        if options.arrivals == "poisson":
            times = np.cumsum(random.exponential(gap, arrivals)) + last
            last = float(times[-1])
        else:
            times = (made + np.arange(arrivals, dtype=np.float64)) * gap + start_ns
        made += arrivals
        block = np.repeat(times.astype(np.int64), options.burst)
        yield from block[: np.searchsorted(block, end_ns)].tolist()
        if block[-1] >= end_ns:
            return
