"""How fast this machine's time-stamp counter runs: the emulated processors read that very counter.

Left to itself the guest measures it against an emulated timer while it boots. On a machine that is
busy that goes wrong by any factor, and the guest's clock with it.
"""

from __future__ import annotations

import ctypes
import mmap
import time

__all__ = ("tsc_khz",)

_READ_COUNTER = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret
_APART_S = 0.05
_ATTEMPTS = 20


def tsc_khz() -> int | None:
    """Return the rate of the time-stamp counter; None where no code may be made at run time."""
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return None
    page.write(_READ_COUNTER)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)

    def both() -> tuple[int, int]:
        """Return (ns, ticks) of one moment: of several pairs the one that took least."""
        pairs = []
        for _ in range(_ATTEMPTS):
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            ticks = read()
            after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            pairs.append((after - before, (before + after) // 2, ticks))
        return min(pairs)[1:]

    began_ns, began = both()
    time.sleep(_APART_S)
    ended_ns, ended = both()
    return round((ended - began) * 1_000_000 / (ended_ns - began_ns))
