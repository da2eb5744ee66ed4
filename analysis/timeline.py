"""The calls of one thread laid along its time, to ask what the thread did in an interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ("Intervals", "covered")

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Intervals:
    """Intervals in order of time that do not overlap; ``before`` is what the earlier ones cover."""

    starts: Ints
    ends: Ints
    before: Ints

    @classmethod
    def of(cls, starts: Ints, ends: Ints) -> Intervals:
        """Make intervals from sorted starts; one that runs into the next is cut there."""
        cut = ends.copy()
        if len(starts):
            cut[:-1] = np.minimum(ends[:-1], starts[1:])
        lengths = cut - starts
        return cls(starts, cut, np.cumsum(lengths) - lengths)

    def until(self, instants: Ints) -> Ints:
        """Return how much time the intervals cover up to each instant, in ns."""
        if not len(self.starts):
            return np.zeros(len(instants), dtype=np.int64)
        last = np.searchsorted(self.starts, instants, side="right") - 1
        at = np.maximum(last, 0)
        inside = np.minimum(instants, self.ends[at]) - self.starts[at]
        return np.where(last < 0, 0, self.before[at] + np.maximum(inside, 0))

    def at(self, instants: Ints) -> Ints:
        """Return which interval each instant lies in (its start included), -1 for none."""
        if not len(self.starts):
            return np.full(len(instants), -1, dtype=np.int64)
        last = np.searchsorted(self.starts, instants, side="right") - 1
        inside = (last >= 0) & (instants < self.ends[np.maximum(last, 0)])
        return np.where(inside, last, -1)


def covered(intervals: Intervals, begin: Ints, end: Ints) -> Ints:
    """Return how much of each [begin, end) the intervals cover, in ns."""
    return intervals.until(end) - intervals.until(begin)
