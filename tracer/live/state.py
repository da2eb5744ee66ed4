"""What ``top`` knows: the last intervals, the models recognised so far, what was lost, its cost."""

from __future__ import annotations

import resource
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.layout import CALL, CONTEXT_NAMES, KINDS, RECORD_SIZE
from tracer.following import Following
from tracer.live.frames import frame_of
from tracer.live.window import Group, Names, Window
from tracer.ring import Drain, Records, RingReader
from tracer.standing import standing_of

if TYPE_CHECKING:
    from probes.program import Program

__all__ = ("HISTORY", "TopState")

HISTORY = 12
"""Intervals whose calls per second are drawn behind a line."""
_RECOGNISED_CALLS = 20_000
"""Calls of an interval that models are recognised from: the first ones are as good as all."""
_LINES_REMEMBERED = 5_000


class TopState:
    """Reads the ring of a program and adds up what came in each interval; writes nothing."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._ring = RingReader(program.ring_fd, program.ring_bytes, RECORD_SIZE)
        self._batches: list[Records] = []
        self._drain = Drain(self._ring, self._batches.append)
        program.reset()
        self.following = Following(program)
        self.names = Names()
        self.window = Window(np.empty(0, CALL), time.monotonic_ns(), 1.0)
        self.models: dict[int, str] = {}
        self.history: dict[tuple[str, int], deque[float]] = {}
        self.lost = self.emitted = 0
        self.cpu_share = 0.0
        """Of one CPU, that this process used in the last interval."""
        self._evidence: Any = None
        self._began = time.monotonic()
        self._cpu = _cpu_s()

    def start(self) -> None:
        """Begin to read; privileges are given up before."""
        import analysis.recognition  # noqa: F401  (now, and not in the first interval)

        self._cpu, self._began = _cpu_s(), time.monotonic()
        self._drain.start()

    def stop(self) -> None:
        """Record nothing more."""
        self._program.stop(time.monotonic_ns())
        self._drain.stop()
        self._ring.close()

    def turn(self, *, keep: bool = True) -> None:
        """Make what came since the last turn the current interval, or forget it."""
        taken, self._batches[:] = list(self._batches), []
        now, cpu = time.monotonic(), _cpu_s()
        seconds = max(now - self._began, 1e-3)
        self.cpu_share, self._cpu, self._began = (cpu - self._cpu) / seconds, cpu, now
        records = np.concatenate(taken) if taken else np.empty(0, CALL)
        records = records.view(CALL)
        self.names.learn(np.concatenate([records, *self._open_before()]))
        if keep:
            self.window = Window(records, time.monotonic_ns(), seconds)
        counters = self._program.counters()
        self.lost, self.emitted = sum(counters.lost.values()), sum(counters.emitted.values())
        if keep:
            self._recognise()

    def groups(self, view: str, *, remember: bool = False) -> list[Group]:
        """Return the lines of a view, by ``pid``, ``tid`` or ``socket``; add to their history."""
        found = self.window.by(view)
        if remember:
            if len(self.history) > _LINES_REMEMBERED:
                self.history.clear()
            for group in found:
                past = self.history.setdefault((view, group.key), deque(maxlen=HISTORY))
                past.append(group.calls)
        return found

    def _open_before(self) -> list[Records]:
        sockets, self.following.sockets = self.following.sockets, []
        return [records.view(CALL) for records in sockets]

    def _recognise(self) -> None:
        from analysis.evidence import added, gather
        from analysis.recognition import answers

        calls = self.window.calls[:_RECOGNISED_CALLS]
        calls = calls[calls["kind"] == KINDS["CALL"]]
        if not len(calls):
            return
        now = gather(frame_of(calls, CONTEXT_NAMES))
        self._evidence = now if self._evidence is None else added([self._evidence, now])
        pids = sorted(set(self._evidence["pid"].tolist()))
        standing = [found for pid in pids if (found := standing_of(pid)) is not None]
        said: dict[int, list[str]] = {}
        for answer in answers(self._evidence, _threads(pids, self.names), standing):
            said.setdefault(answer.pid, []).append(answer.model)
        self.models.update({pid: " + ".join(models) for pid, models in said.items()})


def _threads(pids: list[int], names: Names) -> Any:
    import pandas as pd

    rows = [{"pid": pid, "tid": pid, "comm": names.processes.get(pid, "")} for pid in pids]
    return pd.DataFrame(rows)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
