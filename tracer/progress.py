"""Progress on stderr: one line that is redrawn on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tracer.terminal import redraws

__all__ = ("begin", "conversion", "status", "step", "working")

_PATIENCE_S = 2.0
"""Nobody needs to be told of what takes less."""
_BAR_CELLS = 40
_REFRESH_S = 0.1
_STATUS_S = 0.5


_CLEAR = "\r\033[K"
"""To the start of the line, and erase it."""


def begin(text: str) -> None:
    """Say what is being done now; on a terminal, until something else is said."""
    _write(f"{_CLEAR}{text}" if redraws(sys.stderr) else f"{text}\n")


def step(text: str) -> None:
    """Say what is being done now, or what came of it."""
    _write(f"{_CLEAR if redraws(sys.stderr) else ''}{text}\n")


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a changing text on a terminal, and nothing elsewhere."""
    drawn = 0.0

    def show(text: str) -> None:
        nonlocal drawn
        now = time.monotonic()
        if redraws(sys.stderr) and now - drawn >= _STATUS_S:
            drawn = now
            _write(f"{_CLEAR}{text}")

    try:
        yield show
    finally:
        if drawn:
            _write(_CLEAR)


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
        if redraws(sys.stderr):
            cells = _BAR_CELLS * done // total
            bar = "#" * cells + "." * (_BAR_CELLS - cells)
            _write(f"\r{what} [{bar}] {done / total:4.0%}")
        elif not shown:
            step(f"{what} ({total:,} records) ...")
        shown = True

    terminal = redraws(sys.stderr)
    if terminal:
        begin(f"{what} ...")
    try:
        yield show
    finally:
        if terminal:
            _write(_CLEAR)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Say on a terminal, while the block takes long, what is being done and since when."""
    began, done = time.monotonic(), threading.Event()

    def tell() -> None:
        while not done.wait(_PATIENCE_S):
            _write(f"{_CLEAR}{what} ... {time.monotonic() - began:.0f} s")

    if not redraws(sys.stderr):
        yield
        return
    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
        _write(_CLEAR)


def _write(text: str) -> None:
    """Write at once; a terminal that has gone is no reason to lose what was measured."""
    with suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()
