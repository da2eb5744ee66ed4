"""The kernels that iophase supports: each is booted in the lab and runs the live tests there."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ("KERNELS", "Kernel")


class Kernel(NamedTuple):
    """A supported kernel series and the Debian suite that carries it."""

    series: str
    suite: str


KERNELS = (
    Kernel("5.10", "bullseye-security"),
    Kernel("6.1", "bookworm-security"),
    Kernel("6.12", "bookworm-security"),
    Kernel("6.18", "trixie-backports"),
    Kernel("7.3", "trixie-backports"),
)
"""Oldest first; README's table of kernels is made from it."""
