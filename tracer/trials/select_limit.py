"""select on a descriptor beyond 1024, by the system call itself: past the C library's fd_set.

select(2), NOTES: the fd_set of the C library has a fixed size; the kernel's set has as many bits as
nfds says.
"""

from __future__ import annotations

import fcntl
import platform
import resource
from typing import Any

from servers.native import address_of, system_call
from tracer.trials.trial import run, tcp_pair

__all__ = ("trial",)

DESCRIPTOR = 1500
"""Beyond FD_SETSIZE (1024) by more than a word of the set."""
PSELECT6 = {"x86_64": 270, "aarch64": 72}


def trial() -> dict[str, Any]:
    """Return how many descriptors the kernel found ready; ``nfds`` was what it was asked about."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    near, far = tcp_pair()
    high = fcntl.fcntl(near, fcntl.F_DUPFD, DESCRIPTOR)
    far.sendall(bytes(64))
    nfds = high + 1
    asked = bytearray((nfds + 63) // 64 * 8)
    asked[high // 8] |= 1 << high % 8
    timeout = bytearray(16)  # struct timespec: do not wait
    try:
        ready = system_call(
            PSELECT6[platform.machine()], nfds, address_of(asked), 0, 0, address_of(timeout), 0
        )
    except OSError:
        ready = 0
    return {"nfds": nfds, "ready": ready}


if __name__ == "__main__":
    run(trial)
