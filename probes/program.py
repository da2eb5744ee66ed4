"""The BPF program of a recording: compiled, loaded, attached, and asked for a few things."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probes import btf, calibration, calls, kernel_calls, layout, syscall
from probes.attachment import Attached, attach, detach, load
from probes.catalogue import TRACEPOINTS, Function, Tracepoint
from probes.compiler import compile_program
from probes.errors import ProbeError
from probes.plan import BACKENDS, Backend, Plan, make_plan

__all__ = ("RING_BYTES", "Counters", "OpenThread", "Program")

_SOURCES = (
    "state",
    "records",
    "sockets",
    "arrivals",
    "schedule",
    "copy",
    "calls",
    "copying",
    "ready",
    "threads",
    "functions",
)
"""The files of ``bpf/``, in the order in which they build on each other."""

PHASES = ("sleep", "runq", "spin", "check", "copy", "overhead")

_SLOTS_AT_ONCE = 1 << 10
SLOTS = 1 << 14
"""Threads traced, and sockets watched, at one time: 8 and 17 MiB of kernel memory."""
_PORTS = 1 << 16
_ARRAY_STRIDE = 8
"""Bytes of a value in an array that is mapped: a multiple of it (kernel/bpf/arraymap.c)."""
RING_BYTES = 16 << 20
"""Half a second of records at 200,000 calls/s; the reader comes a hundred times a second."""

_STAGE_OPENING, _STAGE_RUNNING, _STAGE_STOPPED = range(3)
_MODE_USER, _MODE_OTHER_CALL, _MODE_CALL = range(3)
_COUNT_LOST, _COUNT_EMBEDDED = 8, 16
_COUNT_MERGED, _COUNT_THREADS_UNTRACED, _COUNT_SOCKETS_UNTRACED = 17, 18, 19
_COUNT_RETURNS_MISSED, _COUNT_HITS = 20, 21
"""The enumerations of ``state.bpf.c``."""


class Counters(NamedTuple):
    """Records by kind; ``embedded`` deliveries travel in the record of their call."""

    emitted: dict[str, int]
    lost: dict[str, int]
    embedded: int
    merged: int
    threads_untraced: int
    sockets_untraced: int
    returns_missed: int
    """Calls in which a function was entered and not seen to return: they lack its figures."""
    hits: dict[str, int]
    """How often each function probe met a traced thread or socket."""


class OpenThread(NamedTuple):
    """What is known of a thread when it begins to be traced.

    ``call`` is None for a thread that is in user space or not in a system call that is known,
    the index of a traced call, or -1 for any other system call.
    """

    pid: int
    tid: int
    comm: str
    call: int | None = None
    fd: int = -1
    nfds: int = 0
    socket: int = 0
    asleep: bool = False


def _test_run(program_fd: int, *arguments: int) -> int:
    try:
        return syscall.test_run(program_fd, *arguments)
    except OSError as error:
        raise ProbeError(f"a BPF program could not be run: {error.strerror}") from error


class Program:
    """The probes of one recording, attached while the object is open."""

    def __init__(
        self,
        plan: Plan | None = None,
        *,
        further: Sequence[Plan] = (),
        ring_bytes: int = RING_BYTES,
    ) -> None:
        """Compile and load for a plan (default: the best that this host allows).

        ``further`` plans can be attached later instead. ``ring_bytes`` is a power of two, at least
        a page. Raises ``ProbeError`` if the host has no BTF, or refuses a program that is required.
        """
        self.plan = plan or make_plan()
        self._plans = (self.plan, *further)
        self.ring_bytes = ring_bytes
        self.attached: list[Attached] = []
        self.resolution_ns: dict[str, int] = {}
        """Calibrated when attached: see ``probes.calibration``."""
        self._functions = [step for step in self.plan.steps if isinstance(step.probe, Function)]
        self._bpf = self._compile()
        self._open_thread = self._load("open_thread")
        self._close_thread = self._load("close_thread")
        self._forget_some_sockets = self._load("forget_some_sockets")
        self._fill_free_slots()
        self._counted_before = self._counts()
        self._used = False

    def _compile(self) -> Any:
        flags = [
            f"-DTHREAD_SLOTS={SLOTS + 1}",
            f"-DSLOTS_AT_ONCE={_SLOTS_AT_ONCE}",
            f"-DSOCKET_SLOTS={SLOTS}",
            f"-DRING_PAGES={self.ring_bytes // os.sysconf('SC_PAGE_SIZE')}",
            f"-DRECORD_SIZE={layout.RECORD_SIZE}",
            f"-DTASK_STATE_FIELD={_task_state_field()}",
            *(["-DHAVE_CURRENT_TASK_BTF"] if _has_helper("get_current_task_btf") else []),
            *(["-DHAVE_TASK_PT_REGS"] if _has_helper("task_pt_regs") else []),
            *(["-DVERIFIER_FORGETS"] if _verifier_forgets() else []),
            *calls.number_defines(),
            *kernel_calls.defines(),
            *self._tracepoint_defines(),
            *self._function_defines(),
        ]
        source = "\n".join(f'#include "{name}.bpf.c"' for name in _SOURCES)
        return compile_program(source, cflags=flags, prelude=layout.c_definitions())

    def _tracepoint_defines(self) -> list[str]:
        """Tell the C which tracepoints a plan may attach: the others cost time to compile."""
        steps = [step for plan in self._plans for step in plan.steps]
        points = [step for step in steps if isinstance(step.probe, Tracepoint)]
        tried = {step.symbol for step in points if step.backends}
        return [
            f"-DTRY_TRACEPOINT_{point.name}={int(point.name in tried)}" for point in TRACEPOINTS
        ]

    def _function_defines(self) -> list[str]:
        """Tell the C which backends to compile for, and of each function where its result is."""
        flags = [f"-DFUNCTION_PROBES={len(self._functions)}"]
        steps = [step for plan in self._plans for step in plan.steps]
        tried = {(backend, step.symbol) for step in steps for backend in step.backends}
        flags += [f"-DTRY_{backend.upper()}" for backend in sorted({name for name, _ in tried})]
        for index, step in enumerate(self._functions):
            prototype = btf.load().function(step.symbol)
            flags += [
                f"-DTRY_{backend.upper()}_{step.symbol}={int((backend, step.symbol) in tried)}"
                for backend in BACKENDS[:2]
            ]
            slot = prototype.return_slot if prototype else 0
            flags += [f"-DHITS_{step.symbol}={index}", f"-DPARAMETERS_{step.symbol}={slot}"]
            if step.probe.name != step.symbol:
                flags.append(f"-D{step.probe.name}={step.symbol}")
        return flags

    def _load(self, function: str) -> int:
        from bcc import BPF

        load(self._bpf, function, BPF.RAW_TRACEPOINT)
        return int(self._bpf.funcs[function.encode()].fd)

    def _fill_free_slots(self) -> None:
        program = self._load("free_some_slots")
        for first in range(0, SLOTS, _SLOTS_AT_ONCE):
            _test_run(program, first)

    def _forget_sockets(self) -> None:
        for first in range(0, SLOTS, _SLOTS_AT_ONCE):
            _test_run(self._forget_some_sockets, first)

    def attach(self, plan: Plan | None = None) -> None:
        """Attach what a plan says (default: the first one), and calibrate what the probes cost.

        Raises ``ProbeError`` when a required probe is refused.
        """
        self.plan = plan or self.plan
        without = calibration.measure()
        self._set_stage(_STAGE_STOPPED)
        self.attached = attach(self._bpf, self.plan)
        self.resolution_ns = calibration.calibrate(self, without)
        self._set_stage(_STAGE_OPENING)

    def detach(self) -> None:
        """Detach every probe; what is loaded can be attached again, by another plan as well."""
        detach(self._bpf)
        self.attached = []

    @property
    def backend(self) -> Backend:
        """The best backend that attached a probe."""
        used = {probe.backend for probe in self.attached}
        return next((backend for backend in BACKENDS if backend in used), "tracepoint")

    def open_thread(self, thread: OpenThread) -> bool:
        """Begin to trace a thread; False if there is no room for it, or it is traced already."""
        mode = (
            _MODE_USER
            if thread.call is None
            else _MODE_OTHER_CALL
            if thread.call < 0
            else _MODE_CALL
        )
        comm = os.fsencode(thread.comm)[:15].ljust(16, b"\0")
        return not _test_run(
            self._open_thread,
            thread.pid,
            thread.tid,
            mode,
            max(thread.call or 0, 0),
            thread.fd,
            thread.nfds,
            thread.socket,
            thread.asleep,
            int.from_bytes(comm[:8], "little"),
            int.from_bytes(comm[8:], "little"),
        )

    def watch_port(self, port: int) -> None:
        """Look at arrivals on connections to ``port`` even before they are accepted."""
        self._bpf["ports"][ctypes.c_uint32(port)] = ctypes.c_uint8(1)

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Threads may be opened in the block; afterwards every CPU knows whom it runs."""
        self._set_stage(_STAGE_OPENING)
        try:
            yield
            _visit_every_cpu()
        finally:
            self._set_stage(_STAGE_RUNNING)

    def stop(self, stopped_ns: int) -> None:
        """Record nothing more, and end the ledger of every thread at ``stopped_ns``."""
        self._set_stage(_STAGE_STOPPED)
        _visit_every_cpu()  # no program is still at it: they cannot be preempted
        for tid in self.tids():
            _test_run(self._close_thread, tid, stopped_ns)

    def tids(self) -> list[int]:
        """Return the threads that are traced now."""
        return [tid.value for tid in self._bpf["slots"]]

    def reset(self) -> None:
        """Forget the sockets, the ports and the counts of an earlier recording."""
        if self._used:
            self._forget_sockets()
            self._forget_ports()
        self._used = True
        self._counted_before = self._counts()

    def _forget_ports(self) -> None:
        """Watch no port: one that is used again by anybody would be watched for nothing."""
        with mmap.mmap(self._bpf["ports"].map_fd, _PORTS * _ARRAY_STRIDE) as ports:
            ports[:] = bytes(len(ports))

    def forget(self) -> None:
        """Forget an earlier recording and drop its records: for when nobody reads the ring yet."""
        self.reset()
        page = mmap.PAGESIZE
        with (
            mmap.mmap(self.ring_fd, page) as consumer,
            mmap.mmap(self.ring_fd, page, prot=mmap.PROT_READ, offset=page) as producer,
        ):
            consumer[:8] = producer[:8]

    def _counts(self) -> list[int]:
        size = _COUNT_HITS + len(self._functions)
        return [sum(self._bpf["counters"][ctypes.c_int(i)]) for i in range(size)]

    def counters(self) -> Counters:
        """Return what was counted since ``reset``."""
        pairs = zip(self._counts(), self._counted_before, strict=True)
        values = [now - before for now, before in pairs]
        return Counters(
            {name: values[kind] for name, kind in layout.KINDS.items()},
            {name: values[_COUNT_LOST + kind] for name, kind in layout.KINDS.items()},
            values[_COUNT_EMBEDDED],
            values[_COUNT_MERGED],
            values[_COUNT_THREADS_UNTRACED],
            values[_COUNT_SOCKETS_UNTRACED],
            values[_COUNT_RETURNS_MISSED],
            {step.symbol: values[_COUNT_HITS + i] for i, step in enumerate(self._functions)},
        )

    @property
    def ring_fd(self) -> int:
        """The descriptor of the ring buffer's map."""
        return int(self._bpf["records"].map_fd)

    def close(self) -> None:
        """Detach and unload everything."""
        self._bpf.cleanup()

    def ledger(self, tid: int) -> dict[str, int]:
        """Return the phases of a traced thread so far, in ns, and its ``calls``.

        Raises ``KeyError`` when it is not traced.
        """
        thread = self._bpf["threads"][self._bpf["slots"][ctypes.c_uint32(tid)]]
        return {name: int(getattr(thread, name)) for name in (*PHASES, "calls")}

    def asleep(self, now_ns: int) -> NDArray[np.void]:
        """Return the calls in which traced threads sleep at ``now_ns``: unfinished CALL records."""
        in_call = (t for tid in self.tids() if (t := self._state(tid)) and t.mode == _MODE_CALL)
        sleeping = [t for t in in_call if t.off_at and not t.preempted]
        records = np.zeros(len(sleeping), layout.CALL)
        records["kind"], records["flags"] = layout.KINDS["CALL"], layout.FLAGS["UNFINISHED"]
        for record, t in zip(records, sleeping, strict=True):
            for name in ("pid", "tid", "call", "context", "fd", "nfds", "socket"):
                record[name] = getattr(t, name)
            record["ts"], record["duration"] = t.call_at, max(0, now_ns - t.call_at)
            record["sleep"] = t.call_sleep + max(0, now_ns - t.off_at)
            record["runq"] = t.call_runq
        return records

    def _state(self, tid: int) -> Any:
        """Return what the kernel's side remembers of a thread; None if it is not traced."""
        try:
            state = self._bpf["threads"][self._bpf["slots"][ctypes.c_uint32(tid)]]
        except KeyError:
            return None
        return state if state.tid == tid else None

    def _set_stage(self, stage: int) -> None:
        self._bpf["stages"][ctypes.c_int(0)] = ctypes.c_uint32(stage)


def _has_helper(name: str) -> bool:
    """Return whether the kernel lists a helper function (include/uapi/linux/bpf.h)."""
    return bool(btf.load().enums_with([f"BPF_FUNC_{name}"]))


def _verifier_forgets() -> bool:
    """Return whether the verifier forgets a place that it comes by more than four times.

    It then follows both ways of every branch of a loop again and again, up to its limit
    (is_state_visited). What made it better came with the iterators of v6.4 (6018e1f407cc).
    """
    return not btf.load().has_function("bpf_iter_num_new")


def _task_state_field() -> str:
    """Return the name of the member that was ``state`` before v5.14 (2f064a59a11f)."""
    return "__state" if btf.load().member("task_struct", "__state") else "state"


def _visit_every_cpu() -> None:
    """Run on each CPU once, so that each switches, and sees the thread that it switches to."""
    home = os.sched_getaffinity(0)
    try:
        for cpu in range(os.sysconf("SC_NPROCESSORS_CONF")):
            with contextlib.suppress(OSError):  # it is off, or not ours: its own switches will do
                os.sched_setaffinity(0, {cpu})
                os.sched_yield()
    finally:
        os.sched_setaffinity(0, home)
