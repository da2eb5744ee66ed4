"""The evidence on one thread, or on some together, as something to ask questions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from analysis.schema import EVIDENCE_KEYS

__all__ = ("Activity", "activities")

Row = tuple[str, str, Mapping[str, int]]
"""Context, call, and the other columns of the evidence."""


@dataclass(frozen=True)
class Activity:
    """What a thread did, call by call; ``pid`` and ``tid`` are the first of several together."""

    pid: int
    tid: int
    rows: tuple[Row, ...]

    @classmethod
    def together(cls, parts: Iterable[Activity]) -> Activity:
        """Return the activity of several threads as one."""
        members = list(parts)
        rows = tuple(row for member in members for row in member.rows)
        return cls(members[0].pid, members[0].tid, rows)

    def _counts(self, calls: tuple[str, ...]) -> Iterator[Mapping[str, int]]:
        return (counts for _, call, counts in self.rows if not calls or call in calls)

    def total(self, column: str, *calls: str) -> int:
        """Return the sum of a column over these calls; over all if none is named."""
        return sum(counts[column] for counts in self._counts(calls))

    def calls(self, *calls: str) -> int:
        """Return how often these calls were made."""
        return self.total("calls", *calls)

    def largest(self, *calls: str) -> int:
        """Return the most descriptors that one of these calls asked about."""
        return max((counts["nfds_max"] for counts in self._counts(calls)), default=0)

    def waits(self, *calls: str) -> bool:
        """Return whether these calls wait for something: any slept, or found something."""
        return self.total("slept", *calls) > 0 or self.total("reported", *calls) > 0

    def in_context(self, context: str) -> int:
        """Return how many calls were done in this context."""
        return sum(counts["calls"] for where, _, counts in self.rows if where == context)

    def by_call(self) -> list[tuple[str, int]]:
        """Return how often each call was made, the most frequent first."""
        names = sorted({call for _, call, _ in self.rows})
        return sorted(((name, self.calls(name)) for name in names), key=lambda pair: -pair[1])


def activities(evidence: pd.DataFrame) -> list[Activity]:
    """Return what each thread did, from a table of evidence."""
    threads: dict[tuple[int, int], list[Row]] = {}
    for row in evidence.to_dict("records"):
        counts = {str(name): int(row[name]) for name in row if name not in EVIDENCE_KEYS}
        key = (int(row["pid"]), int(row["tid"]))
        threads.setdefault(key, []).append((str(row["context"]), str(row["call"]), counts))
    return [Activity(pid, tid, tuple(rows)) for (pid, tid), rows in sorted(threads.items())]
