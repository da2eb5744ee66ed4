"""Where server and clients are: on one loopback, or each in a network namespace of its own."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar

from tracer import privileges, progress
from tracer.errors import IophaseError
from tracer.namespaces import ADDRESSES, MAKE_S, SIDES, Link

__all__ = ("Loopback", "Network", "Veth")

_P = ParamSpec("_P")
_T = TypeVar("_T")

_CLONE_NEWNET = 0x40000000
_CLOSE_S = 10.0
"""The keeper removes the namespaces within milliseconds; the kernel's clean-up goes on behind."""


class Network(Protocol):
    """A place for a server and a place for its clients."""

    def at_server(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call a function where the server is; processes that it starts are there, too."""

    def at_clients(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call a function where the clients are; processes that it starts are there, too."""

    def host(self, transport: str) -> str:
        """Return the address for a server to listen on, over tcp, tcp6 or udp."""

    def drop_privileges(self) -> None:
        """Give up for processes that are started here what ``privileges.drop`` gives up."""

    def to_json(self) -> dict[str, Any] | None:
        """Return what the trace is to say of the network; None: loopback."""


class Loopback:
    """The loopback of this very host: nothing to make, nothing to remove."""

    def at_server(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call it here."""
        return function(*args, **kwargs)

    at_clients = at_server

    def host(self, transport: str) -> str:
        """Return the address of loopback."""
        return "::1" if transport == "tcp6" else "127.0.0.1"

    def drop_privileges(self) -> None:
        """Do nothing: the caller has dropped them."""

    def to_json(self) -> None:
        """Return nothing."""
        return None


class Veth:
    """Server and clients in two namespaces that a veth pair joins, while the context is open.

    A process inherits the namespace of the thread that starts it: there is a thread in each. They
    live as long as the context, so a process that asks for a signal when its parent dies
    (PR_SET_PDEATHSIG, which means the thread) gets none before.
    """

    def __init__(self, link: Link) -> None:
        """Make it; raise ``IophaseError`` where that is not possible."""
        self.link = link
        self._threads: dict[str, ThreadPoolExecutor] = {}
        root = Path(__file__).resolve().parent.parent
        path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "tracer.namespaces", json.dumps(asdict(link))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # it is to outlive whatever ends the tool
        )
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            answer = self._listen()
            self.paths = {side: Path(answer[side]) for side in SIDES}
            for side, inside in self.paths.items():
                self._threads[side] = ThreadPoolExecutor(1, f"in {side} namespace")
                self._threads[side].submit(_enter, inside).result()
            self._opened = stack.pop_all()
        for name in answer["removed"]:
            progress.step(f"removed network namespace {name}, which an earlier run had left")

    def _listen(self) -> dict[str, Any]:
        assert self._keeper.stdout is not None
        if not select.select([self._keeper.stdout], [], [], MAKE_S)[0]:
            self._keeper.kill()
            raise IophaseError(f"--network veth: not made within {MAKE_S} s")
        line = self._keeper.stdout.readline()
        answer: dict[str, Any] = json.loads(line or '{"error": "its keeper died, see above"}')
        if "error" in answer:
            raise IophaseError(f"--network veth: {answer['error']}")
        return answer

    def _close(self) -> None:
        for thread in self._threads.values():
            thread.shutdown()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._keeper.communicate(timeout=_CLOSE_S)  # the end of its input

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._opened.close()

    def at_server(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call it in the server's namespace."""
        return self._threads["server"].submit(function, *args, **kwargs).result()

    def at_clients(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call it in the clients' namespace."""
        return self._threads["clients"].submit(function, *args, **kwargs).result()

    def host(self, transport: str) -> str:
        """Return the server's address on the veth pair."""
        return ADDRESSES["server"]["tcp6" if transport == "tcp6" else "tcp"]

    def drop_privileges(self) -> None:
        """Give them up in both threads: Linux keeps them per thread."""
        self.at_server(privileges.drop)
        self.at_clients(privileges.drop)

    def to_json(self) -> dict[str, Any]:
        """Return the kind and the figures of the link."""
        return {"kind": "veth", **asdict(self.link)}


def _enter(namespace: Path) -> None:
    """Put the calling thread into a network namespace: setns(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(fd, _CLONE_NEWNET) != 0:
            cause = os.strerror(ctypes.get_errno())
            raise IophaseError(f"--network veth: cannot enter {namespace}: {cause}; use sudo")
    finally:
        os.close(fd)
