"""What every test may ask for: a kernel that accepts BPF programs."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import platform
import shutil
import signal
from pathlib import Path

import pytest

REQUIRE_LIVE = "IOPHASE_REQUIRE_LIVE"
"""Set to 1 where BPF must work: then a live test fails where it would be skipped."""

_BPF_PROG_LOAD = 5
_RAW_TRACEPOINT = 17
SYS_BPF = {"x86_64": 321, "aarch64": 280}
_RETURN_ZERO = bytes.fromhex("b7000000000000009500000000000000")  # r0 = 0; exit


class _ProgLoad(ctypes.Structure):
    """The beginning of ``union bpf_attr`` for BPF_PROG_LOAD (include/uapi/linux/bpf.h)."""

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
    )


def pytest_configure() -> None:
    """Let SIGHUP and SIGINT end what tests start, also under nohup(1) or in the background of a
    script, where they are ignored: that exec passes on, a handler it does not."""
    for number, handler in (
        (signal.SIGHUP, lambda *_: None),
        (signal.SIGINT, signal.default_int_handler),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@functools.cache
def refusal() -> str | None:
    """Say why no program can be loaded here, or None where one can.

    Asks the kernel itself, not our code: a fault of ours must not look like a host without BPF.
    """
    if importlib.util.find_spec("bcc") is None:
        return "BCC's Python package is not installed (python3-bpfcc)"
    if not Path("/sys/kernel/btf/vmlinux").exists():
        return "the kernel has no BTF"
    if platform.machine() not in SYS_BPF:
        return f"no number of the bpf system call for {platform.machine()}"
    instructions = ctypes.create_string_buffer(_RETURN_ZERO, len(_RETURN_ZERO))
    gpl = ctypes.create_string_buffer(b"GPL")
    attr = _ProgLoad(
        prog_type=_RAW_TRACEPOINT,
        insn_cnt=len(_RETURN_ZERO) // 8,
        insns=ctypes.addressof(instructions),
        license=ctypes.addressof(gpl),
    )
    libc = ctypes.CDLL(None, use_errno=True)
    number = SYS_BPF[platform.machine()]
    program = libc.syscall(number, _BPF_PROG_LOAD, ctypes.byref(attr), ctypes.sizeof(attr))
    if program < 0:
        return f"the kernel refuses a BPF program: {os.strerror(ctypes.get_errno())}"
    os.close(program)
    return None


IN_LAB_INSTEAD = "in the lab run those that tests/tracer/test_kernels.py names"


def _require_live() -> None:
    reason = refusal()
    if reason is None:
        return
    if shutil.which(f"qemu-system-{platform.machine()}") and "IOPHASE_LAB" not in os.environ:
        pytest.skip(f"{reason}; {IN_LAB_INSTEAD}")
    if os.environ.get(REQUIRE_LIVE) == "1":
        pytest.fail(f"{REQUIRE_LIVE}=1, but {reason}", pytrace=False)
    pytest.skip(f"{reason} (set {REQUIRE_LIVE}=1 to fail instead)")


@pytest.fixture(scope="session")
def live() -> None:
    """Skip the test where no BPF program can be loaded; fail it under IOPHASE_REQUIRE_LIVE=1."""
    _require_live()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Treat the marker ``live`` like the fixture."""
    if item.get_closest_marker("live") is not None:
        _require_live()
