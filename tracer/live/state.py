"""What ``top`` knows: the last intervals, the models recognised so far, what was lost, its cost."""

from __future__ import annotations

import resource
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.layout import CALL, CONTEXT_NAMES, FLAGS, RECORD_SIZE
from tracer.following import Following
from tracer.live.frames import frame_of
from tracer.live.window import Group, Names, Window
from tracer.ring import Drain, Records, RingReader
from tracer.standing import Standing, standing_of

if TYPE_CHECKING:
    from probes.program import Program

__all__ = ("HISTORY", "TopState")

HISTORY = 12
"""Intervals whose calls per second are drawn behind a line."""
_RECOGNISED_CALLS = 20_000
"""Calls of an interval that models are recognised from: the first ones are as good as all."""
_LINES_REMEMBERED = 5_000
_LOOK_AGAIN = 15
"""After so many intervals it is looked again what a process has set up: it can have thousands."""


class TopState:
    """Reads the ring of a program and adds up what came in each interval; writes nothing."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._ring = RingReader(program.ring_fd, program.ring_bytes, RECORD_SIZE)
        self._batches: deque[Records] = deque()
        self._drain = Drain(self._ring, self._batches.append)
        program.reset()
        self.following = Following(program)
        self.names = Names()
        self.window = Window(np.empty(0, CALL), time.monotonic_ns(), 1.0)
        self.models: dict[str, dict[int, str]] = {"pid": {}, "tid": {}}
        self.history: dict[tuple[str, int], deque[float]] = {}
        self.lost = self.emitted = 0
        self.threads_untraced = self.sockets_untraced = 0
        """Threads, and how often sockets, that found no room."""
        self.cpu_share = 0.0
        """Of one CPU, that this process used in the last interval."""
        self._evidence: Any = None
        self._standing: dict[int, Standing | None] = {}
        self._turns = 0
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
        taken = [self._batches.popleft() for _ in range(len(self._batches))]
        now, cpu = time.monotonic(), _cpu_s()
        seconds = max(now - self._began, 1e-3)
        self.cpu_share, self._cpu, self._began = (cpu - self._cpu) / seconds, cpu, now
        now_ns = time.monotonic_ns()
        came = [records.view(CALL) for records in taken]
        records = np.concatenate([*came, self._program.asleep(now_ns)])
        self.names.learn(np.concatenate([records, *self._open_before()]))
        if keep:
            self.window = Window(records, now_ns, seconds)
        counters = self._program.counters()
        self.lost, self.emitted = sum(counters.lost.values()), sum(counters.emitted.values())
        self.threads_untraced = counters.threads_untraced
        self.sockets_untraced = counters.sockets_untraced
        self.names.forget(self.window.calls)
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
        from tracer.live.summary import joined_threads

        calls = self.window.calls
        asleep = (calls["flags"] & FLAGS["UNFINISHED"]) != 0
        now = gather(frame_of(calls[~asleep][:_RECOGNISED_CALLS], CONTEXT_NAMES))
        before = [] if self._evidence is None else [self._evidence]
        self._evidence = joined_threads(added([*before, now]))
        found = added([self._evidence, gather(frame_of(calls[asleep], CONTEXT_NAMES))])
        if found.empty:
            return
        pids = sorted(set(found["pid"].tolist()))
        said: dict[str, dict[int, list[str]]] = {"pid": {}, "tid": {}}
        for answer in answers(found, _threads(pids, self.names), self._stands(pids)):
            for column, keys in (("pid", (answer.pid,)), ("tid", answer.tids)):
                for key in keys:
                    said[column].setdefault(key, []).append(answer.model)
        for column, models in said.items():
            self.models[column] = {key: " + ".join(all_) for key, all_ in models.items()}

    def _stands(self, pids: list[int]) -> list[Standing]:
        """Return what processes have set up, as it was when they were looked at last."""
        self._turns += 1
        for pid in pids:
            if self._standing.get(pid) is None or self._turns % _LOOK_AGAIN == 0:
                self._standing[pid] = standing_of(pid)
        return [found for pid in pids if (found := self._standing[pid]) is not None]


def _threads(pids: list[int], names: Names) -> Any:
    import pandas as pd

    rows = [{"pid": pid, "tid": pid, "comm": names.processes.get(pid, "")} for pid in pids]
    return pd.DataFrame(rows)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
