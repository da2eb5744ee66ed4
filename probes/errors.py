"""The one exception of this package: what is wrong with the kernel or a program, for a user."""

from __future__ import annotations

__all__ = ("ProbeError",)


class ProbeError(Exception):
    """A failure that names the object, the cause, and where it helps what to do."""
