"""The kernels that iophase supports: each is booted in the lab and runs the live tests there."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ("KERNELS", "Kernel")


class Kernel(NamedTuple):
    """A supported kernel series and the Debian suite that carries it."""

    series: str
    suite: str
    single_threaded: bool = False
    """True where emulation with a thread per CPU has been seen to panic under attach stress."""


KERNELS = (
    Kernel("5.10", "bullseye-security"),
    Kernel("6.1", "bookworm-security"),
    Kernel("6.12", "bookworm-security"),
    Kernel("6.18", "trixie-backports", single_threaded=True),
    Kernel("7.3", "trixie-backports", single_threaded=True),
)
"""Oldest first; README's table of kernels is made from it."""
