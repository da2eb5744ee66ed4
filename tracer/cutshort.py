"""Traces that were cut short, by a crash or a full disk: completed before they are read."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tracer.errors import IophaseError

__all__ = ("complete",)


def complete(directories: Sequence[Path]) -> None:
    """Complete the traces at these paths, or directly below them, and say so on stderr.

    Raises IophaseError when there is nothing to read in one, not even an earlier complete trace.
    """
    from tracer.tracedir import recover

    for path in _cut_short(directories):
        try:
            recover(path)
        except IophaseError as error:
            if not (path / "trace.json").exists():
                raise
            # A new recording into the same directory; the complete one before it can be read.
            print(f"iophase: {error}; reading the earlier trace", file=sys.stderr)
        else:
            print(f"iophase: {path}: was cut short; completed from its records", file=sys.stderr)


def _cut_short(directories: Sequence[Path]) -> Iterator[Path]:
    from tracer.tracedir import is_cut_short

    for path in directories:
        if is_cut_short(path):
            yield path
        elif path.is_dir() and not (path / "trace.json").exists():
            yield from (entry for entry in sorted(path.iterdir()) if is_cut_short(entry))
