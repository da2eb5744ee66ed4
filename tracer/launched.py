"""A command that is started for a recording: it waits before its exec until it is traced."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

__all__ = ("Launched",)

_NOT_EXECUTABLE = 126
_STOP_S = 5.0


class Launched:
    """A child process that will become ``command`` when ``go`` is called."""

    def __init__(self, command: Sequence[str]) -> None:
        """Fork. Call it before any thread is started."""
        self.command = list(command)
        self.status: int | None = None
        self._stopped = False
        gate, self._gate = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._become(gate)
        os.close(gate)

    def _become(self, gate: int) -> None:
        """In the child: wait for the gate, then exec. It ends unstarted if the parent is gone."""
        os.close(self._gate)
        try:
            if os.read(gate, 1):
                for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
                    signal.signal(number, signal.SIG_DFL)
                os.execvp(self.command[0], self.command)
        except OSError as error:
            os.write(2, os.fsencode(f"iophase: {self.command[0]}: {error.strerror}\n"))
        finally:
            os._exit(_NOT_EXECUTABLE)

    def go(self) -> None:
        """Let it exec."""
        os.write(self._gate, b"\n")
        os.close(self._gate)
        self._gate = -1

    def ended(self) -> bool:
        """Return whether it has ended; its exit ``status`` is known then."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    @property
    def failed(self) -> bool:
        """Whether it ended by itself, and not well."""
        return bool(self.status) and not self._stopped

    def stop(self) -> None:
        """End it if it still runs, first asked, then forced: it has not failed, then."""
        self._stopped = not self.ended()
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.ended():
                return
            os.kill(self.pid, number)
            limit = time.monotonic() + _STOP_S
            while not self.ended() and time.monotonic() < limit:
                time.sleep(0.01)
