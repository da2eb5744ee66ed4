"""The thread's view: wall time of the threads, split with nothing left over."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis.load import Trace
from analysis.schema import CPU_PHASES, PHASE_COLUMNS, WAIT_PHASES

__all__ = ("LEDGER_COLUMNS", "Ledger", "ledger", "open_calls", "open_threads")

LEDGER_COLUMNS = (*PHASE_COLUMNS, "user_ns", "other_calls_ns", "off_cpu_elsewhere_ns")
"""The parts of a thread's wall time; they add up to it exactly."""

_CPU_COLUMNS = ("user_ns", *(f"{phase}_ns" for phase in CPU_PHASES), "other_calls_ns")


@dataclass(frozen=True)
class Ledger:
    """The summed ledger of a trace's threads, in ns; a part that nothing measured is None."""

    threads: int
    wall_ns: int
    parts: dict[str, int | None]
    calls: int
    bytes: int

    def _sum(self, columns: tuple[str, ...]) -> int:
        return sum(self.parts[column] or 0 for column in columns)

    @property
    def wait_ns(self) -> int:
        """Return sleep + runq + spin + check."""
        return self._sum(tuple(f"{phase}_ns" for phase in WAIT_PHASES))

    @property
    def cpu_ns(self) -> int:
        """Return the time on a CPU: user + spin + check + copy + overhead + other calls."""
        return self._sum(_CPU_COLUMNS)


def ledger(trace: Trace) -> Ledger:
    """Add up the ledgers of all threads of ``trace``."""
    threads = trace.threads
    parts = {
        column: None if threads[column].isna().all() else int(threads[column].sum())
        for column in LEDGER_COLUMNS
    }
    received = int(threads["bytes"].sum())
    if received and parts["copy_ns"] == 0:
        parts["copy_ns"] = None  # no copy takes no time: no probe saw any of them
    if threads.empty:
        parts = dict.fromkeys(LEDGER_COLUMNS, 0)
    return Ledger(
        threads=len(threads),
        wall_ns=int(threads["wall_ns"].sum()),
        parts=parts,
        calls=int(threads["calls"].sum()),
        bytes=received,
    )


def open_calls(calls: pd.DataFrame) -> pd.DataFrame:
    """Return the calls whose phases do not add up to their duration; unknown counts as nothing."""
    total = calls[list(PHASE_COLUMNS)].sum(axis="columns")
    return calls[(total != calls["duration_ns"]).fillna(False)]


def open_threads(threads: pd.DataFrame) -> pd.DataFrame:
    """Return the threads whose parts do not add up to their wall time."""
    total = threads[list(LEDGER_COLUMNS)].sum(axis="columns")
    return threads[(total != threads["wall_ns"]).fillna(False)]
