"""Single keys from the terminal, without waiting for Enter and without echo (termios(3))."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ("keys",)


@contextmanager
def keys() -> Iterator[Callable[[float], str]]:
    """Yield a function that waits so many seconds for a key; it returns "" when none came.

    Where stdin is no terminal it only waits.
    """
    descriptor = sys.stdin.fileno() if sys.stdin is not None else -1
    if descriptor < 0 or not os.isatty(descriptor):
        yield _no_key
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield lambda seconds: _key(descriptor, seconds)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _key(descriptor: int, seconds: float) -> str:
    ready, _, _ = select.select([descriptor], [], [], max(0.0, seconds))
    return os.read(descriptor, 1).decode(errors="replace") if ready else ""


def _no_key(seconds: float) -> str:
    select.select([], [], [], max(0.0, seconds))
    return ""
