"""Child processes of a server: they end with it, and their counters are added to its own."""

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing import Array
from types import FrameType, TracebackType

from servers.common import Echo, Stopped

__all__ = ("Children",)

PR_SET_PDEATHSIG = 1  # prctl(2)
# Held back while a child is made, so that none is forgotten or reaped before it is known.
HELD_BACK = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Children:
    """The running children of a server; leaving the context ends them and adds up the counters."""

    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._pids: set[int] = set()
        self._totals = Array("Q", 3)  # in memory shared with the children

    def __enter__(self) -> "Children":
        signal.signal(signal.SIGCHLD, self._reap)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
        # One pid may be stale: _reap() is interrupted by the signal that ends the server, too.
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        for pid in self._pids:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self._echo.connections += self._totals[0]
        self._echo.messages += self._totals[1]
        self._echo.bytes_received += self._totals[2]

    def fork(self, task: Callable[..., None], *arguments: object) -> None:
        """Run `task(*arguments)` in a child process, which then ends."""
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            os._exit(self._run(parent, task, arguments))
        self._pids.add(pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)

    def _run(self, parent: int, task: Callable[..., None], arguments: tuple[object, ...]) -> int:
        code = 0
        echo = self._echo
        echo.connections = echo.messages = echo.bytes_received = 0
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        try:
            if os.getppid() == parent:  # else it died before prctl()
                signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
                task(*arguments)
        except Stopped:
            pass
        except Exception:
            traceback.print_exc(file=sys.stderr)
            code = 1
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
        with self._totals.get_lock():
            counted = (echo.connections, echo.messages, echo.bytes_received)
            for index, number in enumerate(counted):
                self._totals[index] += number
        return code

    def _reap(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGCHLD: one signal may stand for several children, so ask until none is left."""
        while self._pids:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:  # the handler ran late: all are reaped already
                return
            if pid == 0:
                return
            self._pids.discard(pid)
