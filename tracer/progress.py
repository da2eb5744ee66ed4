"""Progress on stderr: a bar on a terminal, a plain line per step elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ("conversion", "step")

_PATIENCE_S = 2.0
"""Nobody needs to be told of what takes less."""
_BAR_CELLS = 40
_REFRESH_S = 0.1


def step(text: str) -> None:
    """Say what is being done now."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def conversion(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function for ``done`` and ``total``: it shows a bar if the work takes long."""
    began = drawn = time.monotonic()
    shown = False

    def show(done: int, total: int) -> None:
        nonlocal drawn, shown
        now = time.monotonic()
        if now - began < _PATIENCE_S or now - drawn < _REFRESH_S or not total:
            return
        drawn = now
        if sys.stderr.isatty():
            cells = _BAR_CELLS * done // total
            bar = "#" * cells + "." * (_BAR_CELLS - cells)
            print(f"\r{what} [{bar}] {done / total:4.0%}", end="", file=sys.stderr, flush=True)
        elif not shown:
            step(f"{what} ({total:,} records) ...")
        shown = True

    try:
        yield show
    finally:
        if shown and sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
