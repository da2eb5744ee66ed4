"""The one exception of this package: something about the kernel or a BPF program, said for a user."""

from __future__ import annotations

__all__ = ("ProbeError",)


class ProbeError(Exception):
    """A failure that names the object, the cause, and where it helps what to do."""
