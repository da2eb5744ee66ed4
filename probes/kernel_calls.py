"""Calls of kernel functions that are not helpers, in programs that BCC compiles: BCC knows none.

In C such a call is one of a helper whose number no helper has. Before the program is loaded, its
instruction is made one of a call by the function's BTF type (BPF_PSEUDO_KFUNC_CALL,
Documentation/bpf/kfuncs.rst).
"""

from __future__ import annotations

import ctypes
import functools
import struct
from typing import Any

from probes import btf

__all__ = ("available", "defines", "preemptible_tracepoints", "resolve")

_PREEMPTION = ("bpf_preempt_disable", "bpf_preempt_enable")
"""They keep a program from being preempted; since v6.10 (fc7566ad0a82)."""

_CAST = "bpf_rdonly_cast"
"""Of what it returns, members are read by a load instead of a helper; since v6.2 (a35b9af4ec2c)."""

_CAST_TYPES = (
    "sock",
    "tcp_sock",
    "udp_sock",
    "sk_buff",
    "socket",
    "file",
    "inode",
    "task_struct",
    "fdtable",
    "pt_regs",
    "list_head",
    "rb_node",
)
"""The structs that the C casts to: ``LOAD`` in ``state.bpf.c``."""

_NUMBERS = {name: number for number, name in enumerate((*_PREEMPTION, _CAST), 1_000_001)}
_CALL = 0x85
_PSEUDO_KFUNC_CALL = 2
_INSTRUCTION = struct.Struct("<BBhi")


@functools.cache
def available() -> dict[str, int]:
    """Return the functions that this kernel has, by name, and their BTF types."""
    found = {name: btf.load().find(btf.Kind.FUNC, name) for name in _NUMBERS}
    return {name: ids[0] for name, ids in found.items() if ids}


def preemptible_tracepoints() -> bool:
    """Return whether a program of a tracepoint can be preempted: SRCU, not RCU, protects it then.

    The same variable was there until 6.12 for tracepoints on idle CPUs alone.
    """
    srcu = btf.load().find(btf.Kind.VAR, "tracepoint_srcu_srcu_data")
    return set(_PREEMPTION) <= available().keys() and bool(srcu)


def defines() -> list[str]:
    """Return the compiler's flags that say by which numbers the functions are called."""
    there = available()
    flags = [
        f"-DKERNEL_CALL_{name.removeprefix('bpf_').upper()}={number}"
        for name, number in _NUMBERS.items()
        if name in there
    ]
    if set(_PREEMPTION) <= there.keys():
        flags.append("-DHAVE_PREEMPT_DISABLE")
    if preemptible_tracepoints():
        flags.append("-DPREEMPTIBLE_TRACEPOINTS")
    if _CAST in there:
        ids = {name: btf.load().find(btf.Kind.STRUCT, name)[0] for name in _CAST_TYPES}
        flags += ["-DHAVE_RDONLY_CAST", *(f"-DTYPE_{name}={ids[name]}" for name in ids)]
    return flags


def resolve(bpf: Any, program: str) -> None:
    """Make the calls in a compiled program, which is not loaded yet, those of the functions."""
    ids = {_NUMBERS[name]: type_id for name, type_id in available().items()}
    if not ids:
        return
    from bcc import lib

    start = ctypes.cast(lib.bpf_function_start(bpf.module, program.encode()), ctypes.c_void_p)
    size = lib.bpf_function_size(bpf.module, program.encode())
    if not start.value:
        return
    text = (ctypes.c_char * size).from_address(start.value)
    for at in range(0, size, _INSTRUCTION.size):
        operation, _, _, number = _INSTRUCTION.unpack_from(text, at)
        if operation == _CALL and number in ids:
            _INSTRUCTION.pack_into(text, at, _CALL, _PSEUDO_KFUNC_CALL << 4, 0, ids[number])
