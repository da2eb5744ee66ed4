"""Ctrl-C and SIGTERM as a wish to stop: the work in hand is finished, nothing measured is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ("Wish", "stopping")


class Wish:
    """Whether the user wants to stop; ``wait`` returns early when that happens."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @property
    def stop(self) -> bool:
        """Whether a signal came."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep, and return whether a signal came."""
        return self._event.wait(seconds)

    def make(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the second one interrupts."""
        if self._event.is_set():
            raise KeyboardInterrupt
        self._event.set()


@contextmanager
def stopping() -> Iterator[Wish]:
    """Turn SIGINT and SIGTERM into a ``Wish`` while the block runs."""
    wish = Wish()
    before = {
        number: signal.signal(number, wish.make) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
