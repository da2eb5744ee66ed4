"""One recording: probes attached, processes followed, records spooled, a trace directory made."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from probes.calls import CALLS
from probes.errors import ProbeError
from probes.layout import CALL, RECORD_SIZE
from probes.plan import Backend, make_plan
from probes.program import RING_BYTES, Program
from tracer.errors import IophaseError
from tracer.following import Following
from tracer.host import require_tracing
from tracer.live.summary import Summary
from tracer.progress import status
from tracer.ring import Drain, Records, RingReader
from tracer.rotation import Rotation
from tracer.scope import Scope
from tracer.thinning import Sampling
from tracer.tracedir import create
from tracer.traceinfo import Clock, Counts, ProbeState, Target, TraceInfo
from tracer.version import __version__

if TYPE_CHECKING:
    from probes.program import Counters

__all__ = ("Progress", "Session", "attached_program")

Progress = Callable[[int, int], object]


class Session:
    """Traces processes from ``follow`` to ``stop``, and leaves a trace directory with ``save``.

    A context manager: leaving it ends the recording, whatever happened; what was recorded and not
    saved stays in the directory as a trace that was cut short.
    """

    def __init__(
        self,
        program: Program,
        output: Path,
        *,
        model: str | None = None,
        command: list[str] | None = None,
        scope: Scope | None = None,
        force: bool = False,
    ) -> None:
        """Create the trace directory; nothing is traced yet.

        ``program`` is attached, and serves one session at a time. Raises ``IophaseError`` when the
        directory cannot be made.
        """
        self._program = program
        scope = scope or Scope()
        self._info = _new_info(program, model, command, scope)
        self._sampling = Sampling(scope.sample) if scope.sample > 1 else None
        self._summary = Summary() if scope.summary else None
        self._rotation: Rotation | None = None
        self._following = Following(program)
        self._draining = False
        self._directory = create(output, self._info, CALLS, force)
        if scope.rotate is not None:
            self._rotation = Rotation(self._directory.spool, scope.rotate)
        self._stopped = False
        with contextlib.ExitStack() as stack:
            stack.callback(self._discard)
            ring = RingReader(program.ring_fd, program.ring_bytes, RECORD_SIZE)
            stack.callback(ring.close)
            self._drain = Drain(ring, self._keep)
            program.reset()
            self._opened = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None or self._draining:
                self._info = replace(self._info, targets=list(self._following.targets))
                self.stop()
        finally:
            self._opened.close()

    @property
    def path(self) -> Path:
        """The trace directory."""
        return self._directory.path

    @property
    def targets(self) -> list[Target]:
        """The processes that are followed by the user's wish."""
        return self._info.targets

    @property
    def refused(self) -> list[Target]:
        """Those that would be, and their children, but may not be looked into."""
        return self._info.refused

    def alive(self) -> bool:
        """Return whether any traced thread still exists."""
        return self._following.alive()

    @property
    def failed(self) -> bool:
        """Whether records can no longer be written (the disk is full): it is time to stop."""
        return self._drain.error is not None

    @property
    def records(self) -> int:
        """How many records have been read so far."""
        return self._drain.taken

    def follow(self, pids: Sequence[int], comm: str | None = None) -> None:
        """Trace processes with all their threads, and what they fork, from now on.

        ``comm`` is their name where they have not got it yet, because they will exec. Raises
        ``IophaseError`` when one of them does not exist.
        """
        self._start_draining()
        self._following.follow(pids, comm)
        self._update()

    def pick_up(self, pids: Sequence[int]) -> None:
        """Trace processes that have appeared, unless they are targets already, or gone again."""
        self._start_draining()
        if self._following.pick_up(pids):
            self._update()

    def found_within(self, latency_s: float) -> None:
        """Note how late processes that appeared may have been picked up."""
        selection = {**(self._info.selection or {}), "latency_s": round(latency_s, 3)}
        self._info = replace(self._info, selection=selection)

    def _start_draining(self) -> None:
        if not self._draining:
            self._drain.start()  # not before: privileges are given up per thread
            self._draining = True

    def _update(self) -> None:
        following = self._following
        self._info = replace(
            self._info,
            targets=list(following.targets),
            refused=list(following.refused),
            standing=list(following.standing),
        )
        self._directory.update(self._info)

    def stop(self) -> None:
        """End every ledger now, and take what is left in the ring; does nothing the second time.

        Raises ``IophaseError`` when records could not be written: those before are kept.
        """
        if self._stopped:
            return
        self._stopped = True
        stopped = time.monotonic_ns()
        self._program.stop(stopped)
        self._info = replace(self._info, stopped=stopped)
        try:
            self._drain.stop()
            for records in self._following.sockets:
                self._keep(records)
            if self._summary is not None:
                self._directory.spool.append(self._summary.few())
        finally:
            self._info = self._with_counts(self._program.counters())
            self._directory.update(self._info)

    def _keep(self, records: Records) -> None:
        """Write what is to be kept of a batch."""
        records = records.view(CALL)
        if self._summary is not None:
            self._summary.keep(records)
            self._summary.save_now_and_then(self.path)
            return
        if self._sampling is not None:
            records = self._sampling.kept(records)
        if len(records):
            self._directory.spool.append(records)
            if self._rotation is not None:
                self._rotation.look()

    def save(
        self, *, workload: dict[str, Any] | None = None, progress: Progress | None = None
    ) -> TraceInfo:
        """Write the files of the trace; ``workload`` is what the load generator says of its run.

        Raises ``IophaseError`` when they cannot be written; the records are kept then.
        """
        self.stop()
        self._info = replace(self._info, workload=workload)
        try:
            if self._summary is not None:
                self._summary.write(self.path)
            self._directory.finish(self._info, progress)
        except KeyboardInterrupt:
            raise IophaseError(
                f"{self.path}: interrupted while its files were written; the records are kept:"
                f" 'iophase report {self.path}' completes the trace"
            ) from None
        return self._directory.info

    def _discard(self) -> None:
        """Leave no directory behind where nothing was recorded."""
        if self._info.targets:
            self._directory.spool.close()
        else:
            self._directory.abandon()

    def _with_counts(self, counters: Counters) -> TraceInfo:
        keepers = (self._sampling, self._summary, self._rotation)
        emitted = _counts(counters.emitted, counters.embedded)
        emitted["total"] += sum(map(len, self._following.sockets))
        return replace(
            self._info,
            emitted=emitted,
            left_out=sum(keeper.left_out for keeper in keepers if keeper is not None),
            lost=_counts(counters.lost, 0),
            merged=counters.merged,
            returns_missed=counters.returns_missed,
            threads_untraced=counters.threads_untraced,
            sockets_untraced=counters.sockets_untraced,
            probes=_probe_states(self._program, counters),
        )


@contextlib.contextmanager
def attached_program(
    backend: Backend | None = None, ring_bytes: int = RING_BYTES, *, submits: bool = True
) -> Iterator[Program]:
    """Attach the probes for the sessions in the block, by the best backend or only by ``backend``.

    ``ring_bytes`` is a power of two; ``submits`` is explained at ``make_plan``. Raises
    ``IophaseError`` when this host refuses a probe that is required, or the backend.
    """
    require_tracing()
    with contextlib.ExitStack() as stack:
        try:
            with status() as show, ThreadPoolExecutor(1) as beside:
                show("attaching the probes ...")
                beside.submit(import_module, "tracer.sockdiag")  # takes long, and is needed next
                program = Program(make_plan(backend, submits=submits), ring_bytes=ring_bytes)
                stack.callback(program.close)
                program.attach()
        except ProbeError as error:
            raise IophaseError(f"{error}; 'iophase doctor' says what this host allows") from error
        yield program


def _new_info(
    program: Program, model: str | None, command: list[str] | None, scope: Scope
) -> TraceInfo:
    now = Clock(monotonic_ns=time.monotonic_ns(), realtime_ns=time.time_ns())
    return TraceInfo(
        iophase=__version__,
        kernel=platform.release(),
        arch=platform.machine(),
        backend=program.backend,
        probes=_probe_states(program, None),
        clock=now,
        started=now["monotonic_ns"],
        model=model,
        selection=scope.selection,
        narrowed=scope.narrowing.as_dict(),
        sample=scope.sample,
        summary=scope.summary,
        rotate=scope.rotate,
        command=command,
        resolution_ns=program.resolution_ns,
    )


def _probe_states(program: Program, counters: Counters | None) -> list[ProbeState]:
    hits = counters.hits if counters is not None else {}
    return [
        ProbeState(
            name=probe.symbol,
            phase=probe.phase,
            attached=probe.backend,
            detail=probe.detail or None,
            hits=hits.get(probe.symbol) if probe.backend in ("fentry", "kprobe") else None,
        )
        for probe in program.attached
    ]


def _counts(by_kind: dict[str, int], embedded: int) -> Counts:
    """Count rows by file; a delivery that travels in the record of its call is a row, too."""
    return Counts(
        calls=by_kind["CALL"],
        deliveries=by_kind["DELIVERY"] + embedded,
        threads=by_kind["THREAD"],
        total=sum(by_kind.values()),
    )
