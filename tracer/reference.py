"""A reference server in a process of its own: started, stopped, its counters read."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from servers.models import Model
from tracer.errors import IophaseError

__all__ = ("ReferenceServer",)

_PR_SET_PDEATHSIG = 1  # prctl(2)
_STOP_S = 10.0
"""A server that has been told to stop answers within milliseconds; one that does not is killed."""
_AGAIN_S = 1.0
"""A signal that comes just before Python enters a blocking call is not seen until the next one."""


class ReferenceServer:
    """The server of ``model``, listening while the context is open; ``counters`` after ``stop``.

    It ends also when the thread that made it does, even by SIGKILL.
    """

    def __init__(self, model: Model, arguments: Sequence[str] = ()) -> None:
        """Start it with ``arguments`` and wait until it listens; raise ``IophaseError``."""
        root = Path(__file__).resolve().parent.parent
        path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
        self.model = model
        self.counters: dict[str, Any] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", model.module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            process_group=0,  # a Ctrl-C is for the tool, which stops its servers itself
            preexec_fn=_end_with_parent,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("listening on "):
            raise IophaseError(f"{model.name} server: {self._last_words()}")
        self.address = line.removeprefix("listening on ").strip()

    def _last_words(self) -> str:
        self._process.kill()
        _, errors = self._process.communicate()
        return errors.strip().rpartition("\n")[2] or "ended before it listened"

    @property
    def pid(self) -> int:
        """The server's first process."""
        return self._process.pid

    def stop(self) -> dict[str, Any]:
        """Stop the server and return what it counted; raise ``IophaseError`` if it had failed."""
        try:
            output, errors = self._end()
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            self._process.communicate()
            raise IophaseError(f"{self.model.name} server: did not stop; killed") from error
        if self._process.returncode != 0:
            reason = errors.strip().rpartition("\n")[2]
            raise IophaseError(f"{self.model.name} server: {reason or 'failed'}")
        self.counters = json.loads(output)
        return self.counters

    def _end(self) -> tuple[str, str]:
        """Return what it printed at its end; raise ``TimeoutExpired`` if it does not come."""
        limit = time.monotonic() + _STOP_S
        while True:
            self._process.terminate()
            try:
                return self._process.communicate(timeout=_AGAIN_S)
            except subprocess.TimeoutExpired:
                if time.monotonic() > limit:
                    raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            try:
                self._end()
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()


def _end_with_parent() -> None:
    """In the child, before it becomes the server: no server outlives a tool that is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
