"""What stdout and stderr can show."""

from __future__ import annotations

import os
import sys
from typing import TextIO

__all__ = ("coloured", "redraws")

_DUMB = ("dumb", "unknown")
"""Values of TERM of terminals that take no escape sequences (term(7)); as rich has them."""


def redraws(stream: TextIO) -> bool:
    """Say whether what is written can be drawn over: a terminal, and none that is dumb."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in _DUMB


def coloured() -> bool:
    """Say whether stdout takes colours, and the user wants them (https://no-color.org)."""
    return redraws(sys.stdout) and "NO_COLOR" not in os.environ
