"""Ctrl-C, SIGTERM and SIGHUP: while something is measured a wish to stop, else an interrupt."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ("Wish", "stopping")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Wish:
    """Whether the user wants to stop; ``wait`` returns early when that happens."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._heeding = False
        self._interrupted = False

    @property
    def stop(self) -> bool:
        """Whether a signal came."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep, and return whether a signal came."""
        return self._event.wait(seconds)

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """In the block a first signal interrupts nothing: who works there looks at ``stop``."""
        self._heeding = True
        try:
            yield
        finally:
            self._heeding = False

    def make(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; raise ``KeyboardInterrupt`` once: what it unwinds is left to finish."""
        first = not self._event.is_set()
        self._event.set()
        if (first and self._heeding) or self._interrupted:
            return
        self._interrupted = True
        raise KeyboardInterrupt


@contextmanager
def stopping() -> Iterator[Wish]:
    """Turn the signals that end a program into a ``Wish`` while the block runs.

    A signal that is ignored when the block begins, as under nohup(1), stays so.
    """
    wish = Wish()
    before = {
        number: handler
        for number in _SIGNALS
        if (handler := signal.getsignal(number)) is not signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, wish.make)
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
