"""What BCC does not offer of bpf(2) and perf_event_open(2): to run a program once, and trials."""

from __future__ import annotations

import ctypes
import errno
import os
import platform

__all__ = ("load_fentry", "test_run", "try_kprobe", "try_to_load")

_SYS_BPF = {"x86_64": 321, "aarch64": 280}
_SYS_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_PROG_LOAD = 5
_PROG_TEST_RUN = 10
_TYPE_RAW_TRACEPOINT = 17
_TYPE_TRACING = 26
_ATTACH_FENTRY = 24
_RETURN_ZERO = bytes((0xB7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0))
"""BPF_MOV64_IMM(r0, 0); BPF_EXIT."""

_REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSYS)
_NO_FUNCTION = b"iophase_no_such_function"


class _Load(ctypes.Structure):
    """``union bpf_attr``, the part for BPF_PROG_LOAD (include/uapi/linux/bpf.h)."""

    _fields_ = (
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * 16),
        ("prog_ifindex", ctypes.c_uint32),
        ("expected_attach_type", ctypes.c_uint32),
        ("prog_btf_fd", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("func_info", ctypes.c_uint64),
        ("func_info_cnt", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("line_info", ctypes.c_uint64),
        ("line_info_cnt", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
    )


class _TestRun(ctypes.Structure):
    """``union bpf_attr``, the part for BPF_PROG_TEST_RUN."""

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


class _PerfEvent(ctypes.Structure):
    """The beginning of ``struct perf_event_attr`` (include/uapi/linux/perf_event.h)."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("unused", ctypes.c_uint64 * 5),
        ("kprobe_func", ctypes.c_char_p),
        ("probe_offset", ctypes.c_uint64),
    )


_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attr: ctypes.Structure) -> int:
    number = _SYS_BPF[platform.machine()]
    result = int(_libc.syscall(number, command, ctypes.byref(attr), ctypes.sizeof(attr)))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def test_run(program_fd: int, *arguments: int) -> int:
    """Run a raw-tracepoint program once with ``arguments`` as context; return its result.

    Raises ``OSError``. Since v5.10 (1b4d60ec162f).
    """
    context = (ctypes.c_uint64 * len(arguments))(*(value & (2**64 - 1) for value in arguments))
    attr = _TestRun(
        prog_fd=program_fd, ctx_size_in=ctypes.sizeof(context), ctx_in=ctypes.addressof(context)
    )
    _bpf(_PROG_TEST_RUN, attr)
    return int(attr.retval)


def try_to_load() -> None:
    """Load a program for a tracepoint that does nothing, and throw it away.

    Raises ``OSError`` with the kernel's reason to refuse.
    """
    os.close(_load(prog_type=_TYPE_RAW_TRACEPOINT))


def load_fentry(function_id: int) -> int:
    """Load a program for the entry of a function of the kernel's BTF that does nothing.

    Returns its descriptor; raises ``OSError`` with the kernel's reason to refuse.
    """
    return _load(
        prog_type=_TYPE_TRACING, expected_attach_type=_ATTACH_FENTRY, attach_btf_id=function_id
    )


def try_kprobe(event_type: int) -> None:
    """Ask for a kprobe of a function that no kernel has: the complaint is another if none is given.

    ``event_type`` is the kernel's number of kprobes among perf events. Raises ``OSError`` with the
    kernel's reason to refuse.
    """
    attr = _PerfEvent(
        type=event_type, size=ctypes.sizeof(_PerfEvent), kprobe_func=_NO_FUNCTION, probe_offset=0
    )
    number = _SYS_PERF_EVENT_OPEN[platform.machine()]
    event = int(_libc.syscall(number, ctypes.byref(attr), -1, 0, -1, 0))
    if event >= 0:
        os.close(event)
    elif (error := ctypes.get_errno()) in _REFUSED:
        raise OSError(error, os.strerror(error))


def _load(**fields: int) -> int:
    code = ctypes.create_string_buffer(_RETURN_ZERO, len(_RETURN_ZERO))
    licence = ctypes.create_string_buffer(b"GPL")
    attr = _Load(
        insn_cnt=len(_RETURN_ZERO) // 8,
        insns=ctypes.addressof(code),
        license=ctypes.addressof(licence),
        **fields,
    )
    return _bpf(_PROG_LOAD, attr)
