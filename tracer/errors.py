"""The one exception that a user sees as a line on stderr."""

from __future__ import annotations

__all__ = ("FAILED", "LOST", "USAGE", "IophaseError")

FAILED = 1
USAGE = 2
LOST = 3
"""Exit codes of DESIGN.md: failed, wrong usage, done but events were lost (``--strict``)."""


class IophaseError(Exception):
    """A failure that names the object, the cause, and what to do, with the exit code."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
