"""The privileges of this process: which it has, for whom it runs, and giving up what it needs not.

Linux keeps capabilities per thread; everything here acts on the calling thread, and on the threads
and processes that it starts afterwards. See capabilities(7).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection
from pathlib import Path

from tracer.errors import IophaseError

__all__ = ("CAPABILITIES", "KEPT", "drop", "effective", "give_to_owner", "owner")

CAPABILITIES = {
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_KILL": 5,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
"""The capabilities that tracing touches, by their numbers in <linux/capability.h>."""

KEPT = ("CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_KILL")
"""What remains after attaching: maps and ring buffers, reading /proc of targets that belong to
others, and stopping a command that was started as root."""

_VERSION_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: two 32-bit words per set
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_DROP = 24


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def _sets() -> dict[str, int]:
    """Return the capability sets of the calling thread as bit masks: CapPrm, CapEff, CapBnd, ..."""
    lines = Path("/proc/thread-self/status").read_text(encoding="ascii", errors="replace")
    return {
        name: int(value, 16)
        for name, _, value in (line.partition(":") for line in lines.splitlines())
        if name.startswith("Cap")
    }


def effective() -> frozenset[str]:
    """Return the names of the effective capabilities, of those in ``CAPABILITIES``."""
    mask = _sets()["CapEff"]
    return frozenset(name for name, number in CAPABILITIES.items() if mask >> number & 1)


def owner() -> tuple[int, int] | None:
    """Return the user and group id of the user who called sudo, or None when nobody else did.

    What root writes on behalf of that user, such as a trace, is to belong to them.
    """
    if os.geteuid() != 0:
        return None
    try:
        uid, gid = int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])
    except (KeyError, ValueError):
        return None
    return (uid, gid) if uid > 0 and gid >= 0 else None


def give_to_owner(path: Path) -> None:
    """Give ``path``, and what root has in it, to the user who called sudo, if somebody did."""
    if (caller := owner()) is None:
        return
    for entry in (path, *path.rglob("*")):
        if entry.lstat().st_uid == 0:
            os.chown(entry, *caller, follow_symlinks=False)


def _checked(result: int, what: str) -> None:
    if result != 0:
        cause = os.strerror(ctypes.get_errno())
        raise IophaseError(f"cannot drop privileges: {what}: {cause}; run without them instead")


def _limit_bounding_set(libc: ctypes.CDLL, keep: int) -> None:
    """Take from the bounding set what is not kept, so that no program started later regains it."""
    bounding = _sets()["CapBnd"]
    for number in range(bounding.bit_length()):
        if bounding >> number & 1 and not keep >> number & 1:
            _checked(libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0), f"capability {number}")


def _become(libc: ctypes.CDLL, uid: int, gid: int) -> None:
    """Become the user but keep the permitted capabilities, which a change from root would clear."""
    _checked(libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0), "PR_SET_KEEPCAPS")
    os.setgroups([gid])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def drop(keep: Collection[str] = KEPT) -> frozenset[str]:
    """Give up every capability but ``keep`` and return what is left; become the caller of sudo.

    Call it after attaching and before starting threads. There is no way back. A process that has no
    privileges keeps none and nothing happens. Raises ``IophaseError`` when the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    wanted = sum(1 << CAPABILITIES[name] for name in keep)
    permitted = _sets()["CapPrm"] & wanted
    if os.geteuid() == 0:
        _limit_bounding_set(libc, wanted)
        if (caller := owner()) is not None:
            _become(libc, *caller)
    words = [permitted & 0xFFFFFFFF, permitted >> 32]
    sets = (_Sets * 2)(*(_Sets(word, word, 0) for word in words))
    _checked(libc.capset(ctypes.byref(_Header(_VERSION_3, 0)), sets), "capset")
    return effective()
