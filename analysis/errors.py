"""The one exception of this package."""

from __future__ import annotations

__all__ = ("TraceError",)


class TraceError(Exception):
    """Something is wrong with a trace; the message names the file, the place, and what to do."""
