"""Calls of kernel functions that are not helpers, in programs that BCC compiles: BCC knows none.

In C such a call is one of a helper whose number no helper has. Before the program is loaded, its
instruction is made one of a call by the function's BTF type (BPF_PSEUDO_KFUNC_CALL,
Documentation/bpf/kfuncs.rst).
"""

from __future__ import annotations

import ctypes
import struct
from typing import Any

from probes import btf

__all__ = ("PREEMPTION", "available", "defines", "preemptible_tracepoints", "resolve")

PREEMPTION = ("bpf_preempt_disable", "bpf_preempt_enable")
"""They keep a program from being preempted; since v6.10 (fc7566ad0a82)."""

_FIRST = 1_000_001
_CALL = 0x85
_PSEUDO_KFUNC_CALL = 2
_INSTRUCTION = struct.Struct("<BBhi")


def available() -> bool:
    """Return whether this kernel has the functions of ``PREEMPTION``."""
    return all(btf.load().find(btf.Kind.FUNC, name) for name in PREEMPTION)


def preemptible_tracepoints() -> bool:
    """Return whether a program of a tracepoint can be preempted: SRCU, not RCU, protects it then.

    The same variable was there until 6.12 for tracepoints on idle CPUs alone.
    """
    return available() and bool(btf.load().find(btf.Kind.VAR, "tracepoint_srcu_srcu_data"))


def defines() -> list[str]:
    """Return the compiler's flags that say by which numbers the functions are called."""
    if not available():
        return []
    numbers = [
        f"-DKERNEL_CALL_{name.removeprefix('bpf_').upper()}={number}"
        for number, name in enumerate(PREEMPTION, _FIRST)
    ]
    if preemptible_tracepoints():
        numbers.append("-DPREEMPTIBLE_TRACEPOINTS")
    return ["-DHAVE_PREEMPT_DISABLE", *numbers]


def resolve(bpf: Any, program: str) -> None:
    """Make the calls in a compiled program, which is not loaded yet, those of the functions."""
    if not available():
        return
    from bcc import lib

    ids = {
        number: btf.load().find(btf.Kind.FUNC, name)[0]
        for number, name in enumerate(PREEMPTION, _FIRST)
    }
    start = ctypes.cast(lib.bpf_function_start(bpf.module, program.encode()), ctypes.c_void_p)
    size = lib.bpf_function_size(bpf.module, program.encode())
    if not start.value:
        return
    text = (ctypes.c_char * size).from_address(start.value)
    for at in range(0, size, _INSTRUCTION.size):
        operation, _, _, number = _INSTRUCTION.unpack_from(text, at)
        if operation == _CALL and number in ids:
            _INSTRUCTION.pack_into(text, at, _CALL, _PSEUDO_KFUNC_CALL << 4, 0, ids[number])
