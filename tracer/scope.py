"""How much of what happens a recording keeps, and whom it looks for: all of it is in trace.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tracer.narrowing import Narrowing

__all__ = ("Scope",)


@dataclass(frozen=True)
class Scope:
    """What was asked for; the default is everything of the processes that are followed."""

    selection: dict[str, Any] | None = None
    """The conditions that the targets were found by."""
    narrowing: Narrowing = field(default_factory=Narrowing)
    sample: int = 1
    """Keep the rows of one connection in so many."""
    summary: bool = False
    """Keep sums instead of rows."""
    rotate: int | None = None
    """Keep only the newest rows, of so many bytes as raw records."""
