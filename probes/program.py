"""The BPF program of a recording: compiled, loaded, attached, and asked for a few things."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from probes import calls, layout
from probes.catalogue import PROBES, Probe
from probes.errors import ProbeError

if TYPE_CHECKING:
    from bcc import BPF

__all__ = ("Attached", "Counters", "OpenThread", "Program")

_SOURCES = (
    "state",
    "records",
    "sockets",
    "arrivals",
    "schedule",
    "copy",
    "calls",
    "ready",
    "threads",
)
"""The files of ``bpf/``, in the order in which they build on each other."""

THREAD_SLOTS = 16_384
"""Threads traced at one time: 5 MiB of kernel memory."""
SOCKET_SLOTS = 16_384
"""Sockets watched at one time: 13 MiB of kernel memory."""
RING_BYTES = 16 << 20
"""Half a second of records at 200,000 calls/s; the reader comes a hundred times a second."""

_STAGE_OPENING, _STAGE_RUNNING, _STAGE_STOPPED = range(3)
_MODE_USER, _MODE_OTHER_CALL, _MODE_CALL = range(3)
_COUNT_LOST, _COUNT_EMBEDDED = 8, 16
_COUNT_MERGED, _COUNT_THREADS_UNTRACED, _COUNT_SOCKETS_UNTRACED = 17, 18, 19
"""The enumerations of ``state.bpf.c``."""

_BPF_PROG_TEST_RUN = 10
_SYS_BPF = {"x86_64": 321, "aarch64": 280}


class Attached(NamedTuple):
    """How a probe was attached: ``backend`` is None where it was not, and ``detail`` says why."""

    probe: Probe
    backend: str | None
    detail: str


class Counters(NamedTuple):
    """Records by kind; ``embedded`` deliveries travel in the record of their call."""

    emitted: dict[str, int]
    lost: dict[str, int]
    embedded: int
    merged: int
    threads_untraced: int
    sockets_untraced: int


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


class _TestRun(ctypes.Structure):
    """``union bpf_attr``, the part for BPF_PROG_TEST_RUN (include/uapi/linux/bpf.h)."""

    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("data_in", ctypes.c_uint64),
        ("data_out", ctypes.c_uint64),
        ("repeat", ctypes.c_uint32),
        ("duration", ctypes.c_uint32),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_uint64),
        ("ctx_out", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


_libc = ctypes.CDLL(None, use_errno=True)


def _test_run(program_fd: int, *arguments: int) -> int:
    """Run a raw-tracepoint program once with ``arguments`` as context; return its result."""
    context = (ctypes.c_uint64 * len(arguments))(*(value & (2**64 - 1) for value in arguments))
    attr = _TestRun(
        prog_fd=program_fd, ctx_size_in=ctypes.sizeof(context), ctx_in=ctypes.addressof(context)
    )
    number = _SYS_BPF[platform.machine()]
    if _libc.syscall(number, _BPF_PROG_TEST_RUN, ctypes.byref(attr), ctypes.sizeof(attr)) < 0:
        error = ctypes.get_errno()
        raise ProbeError(f"a BPF program could not be run: {os.strerror(error)}")
    return int(attr.retval)


def _source() -> str:
    return "\n".join(f'#include "{name}.bpf.c"' for name in _SOURCES)


class Program:
    """The probes of one recording, attached while the object is open."""

    def __init__(self, *, ring_bytes: int = RING_BYTES) -> None:
        """Compile and load. ``ring_bytes`` is a power of two, at least a page.

        Raises ``ProbeError`` if the host has no BTF, or refuses a program that is required.
        """
        self.ring_bytes = ring_bytes
        self.attached: list[Attached] = []
        self._bpf = self._compile()
        self._open_thread = self._load("open_thread")
        self._close_thread = self._load("close_thread")
        self._fill_free_slots()

    def _compile(self) -> BPF:
        from probes import btf
        from probes.compiler import compile_program

        state_field = "__state" if btf.load().member("task_struct", "__state") else "state"
        flags = [
            f"-DTHREAD_SLOTS={THREAD_SLOTS}",
            f"-DSOCKET_SLOTS={SOCKET_SLOTS}",
            f"-DRING_PAGES={self.ring_bytes // os.sysconf('SC_PAGE_SIZE')}",
            f"-DRECORD_SIZE={layout.RECORD_SIZE}",
            f"-DTASK_STATE_FIELD={state_field}",
            *calls.number_defines(),
        ]
        return compile_program(_source(), cflags=flags, prelude=layout.c_definitions())

    def _load(self, function: str) -> int:
        from bcc import BPF

        from probes.compiler import load_function

        return int(load_function(self._bpf, function, BPF.RAW_TRACEPOINT).fd)

    def _fill_free_slots(self) -> None:
        from bcc import lib

        stack = self._bpf["free_slots"]
        slot = ctypes.c_uint32()
        for slot.value in range(THREAD_SLOTS - 1, 0, -1):  # slot 0 means none
            lib.bpf_update_elem(stack.map_fd, None, ctypes.byref(slot), 0)

    def attach(self) -> None:
        """Attach every probe of the catalogue that this host allows."""
        self._set_stage(_STAGE_OPENING)
        for probe in PROBES:
            self.attached.append(self._attach(probe))

    def _attach(self, probe: Probe) -> Attached:
        try:
            for tracepoint in probe.tracepoints:
                self._bpf.attach_raw_tracepoint(tp=tracepoint, fn_name=f"on_{tracepoint}")
        except Exception as error:  # BCC raises Exception itself
            if probe.required:
                raise ProbeError(f"tracepoint {probe.tracepoints[0]}: {error}") from error
            return Attached(probe, None, str(error))
        return Attached(probe, "tracepoint", "")

    def open_thread(self, thread: OpenThread) -> bool:
        """Begin to trace a thread; False if there is no room for it, or it is traced already."""
        mode = (
            _MODE_USER
            if thread.call is None
            else _MODE_OTHER_CALL
            if thread.call < 0
            else _MODE_CALL
        )
        comm = thread.comm.encode()[:15].ljust(16, b"\0")
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
        for tid in self.tids():
            _test_run(self._close_thread, tid, stopped_ns)

    def tids(self) -> list[int]:
        """Return the threads that are traced now."""
        return [tid.value for tid in self._bpf["slots"]]

    def counters(self) -> Counters:
        """Return what was counted since the program was loaded."""
        values = [
            sum(self._bpf["counters"][ctypes.c_int(i)]) for i in range(_COUNT_SOCKETS_UNTRACED + 1)
        ]
        return Counters(
            {name: values[kind] for name, kind in layout.KINDS.items()},
            {name: values[_COUNT_LOST + kind] for name, kind in layout.KINDS.items()},
            values[_COUNT_EMBEDDED],
            values[_COUNT_MERGED],
            values[_COUNT_THREADS_UNTRACED],
            values[_COUNT_SOCKETS_UNTRACED],
        )

    @property
    def ring_fd(self) -> int:
        """The descriptor of the ring buffer's map."""
        return int(self._bpf["records"].map_fd)

    def close(self) -> None:
        """Detach and unload everything."""
        self._bpf.cleanup()

    def _set_stage(self, stage: int) -> None:
        self._bpf["stages"][ctypes.c_int(0)] = ctypes.c_uint32(stage)


def _visit_every_cpu() -> None:
    """Run on each CPU once, so that each switches, and sees the thread that it switches to."""
    home = os.sched_getaffinity(0)
    try:
        for cpu in home:
            os.sched_setaffinity(0, {cpu})
            os.sched_yield()
    finally:
        os.sched_setaffinity(0, home)
