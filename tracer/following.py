"""Whose threads are traced: processes with all their threads and all that they have forked."""

from __future__ import annotations

import time
from collections.abc import Sequence

from probes.program import Program
from tracer import processes
from tracer.errors import USAGE, IophaseError
from tracer.opensocket import OpenSocket, socket_records
from tracer.procnet import open_sockets_of, same_network
from tracer.ring import Records
from tracer.standing import Standing, standing_of
from tracer.traceinfo import Target

__all__ = ("Following",)

_ROUNDS = 100
"""Looks at a process for threads that are new since the last look: two are enough for most."""


class Following:
    """Opens processes to a program; what they fork later is followed in the kernel."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._known: set[tuple[int, int]] = set()
        self.targets: list[Target] = []
        """The processes that are followed by the user's wish."""
        self.refused: list[Target] = []
        """Those that would be, and their children, but may not be looked into."""
        self.standing: list[Standing] = []
        """What processes had set up before."""
        self.sockets: list[Records] = []
        """SOCKET records of what they had open before."""

    def alive(self) -> bool:
        """Return whether any traced thread still exists."""
        return bool(self._program.tids())

    def follow(self, pids: Sequence[int], comm: str | None = None) -> None:
        """Trace processes with all their threads, and what they fork, from now on.

        ``comm`` is their name where they have not got it yet, because they will exec. Raises
        ``IophaseError`` when one of them does not exist.
        """
        self._follow(pids, comm, gone_too=False)

    def pick_up(self, pids: Sequence[int]) -> bool:
        """Trace processes that have appeared; return whether there were any.

        Those that are targets already, refused, or gone again are left out; one that has the number
        of another, which has ended, is new.
        """
        new = [pid for pid in pids if (pid, processes.started(pid)) not in self._known]
        if new:
            self._follow(new, None, gone_too=True)
        return bool(new)

    def _follow(self, pids: Sequence[int], comm: str | None, gone_too: bool) -> None:
        opened: list[int] = []
        with self._program.opening():
            for pid in pids:
                if family := self._open_target(pid, comm):
                    opened += family
                elif not gone_too:
                    raise IophaseError(f"process {pid}: there is none: nothing to trace", USAGE)
        self._note_what_stands(opened)

    def _open_target(self, pid: int, comm: str | None) -> list[int]:
        """Trace a process by the user's wish, with what it has forked; return all their numbers.

        What they fork from then on follows by itself. Nothing is returned if there is no process.
        """
        comm = comm or processes.comm_of(pid)
        if not self._open_process(pid):
            return []
        self.targets.append(Target(pid=pid, comm=comm))
        self._known.add((pid, processes.started(pid)))
        family = [pid]
        for _ in range(_ROUNDS):
            new = [child for child in processes.descendants_of(pid) if child not in family]
            if not new:
                break
            for child in new:
                self._open_process(child)
            family += new
        return family

    def _open_process(self, pid: int) -> bool:
        """Trace all threads of a process; return whether any is traced now."""
        found = False
        for _ in range(_ROUNDS):
            new = [self._program.open_thread(thread) for thread in processes.threads_of(pid)]
            if not any(new):
                break
            found = True
        if found or pid in self._program.tids():
            return True
        if processes.is_closed(pid):
            self.refused.append(Target(pid=pid, comm=processes.comm_of(pid)))
            self._known.add((pid, processes.started(pid)))
        return False

    def _note_what_stands(self, pids: Sequence[int]) -> None:
        """Keep what processes had open and set up before."""
        from tracer.sockdiag import open_sockets

        self.standing += [found for pid in pids if (found := standing_of(pid)) is not None]
        inodes: set[int] = set()
        for pid in pids:
            own = processes.socket_inodes(pid)
            if same_network(pid):
                inodes |= own
            else:
                self._note_sockets(open_sockets_of(pid, own))
        self._note_sockets(open_sockets(inodes))

    def _note_sockets(self, sockets: list[OpenSocket]) -> None:
        """Keep their addresses, and look at what arrives for them.

        Not before every thread is traced that may take it: what is taken unseen is not a delivery.
        """
        for port in {found.local[1] for found in sockets} - {0}:
            self._program.watch_port(port)
        if sockets:
            self.sockets.append(socket_records(sockets, 0, time.monotonic_ns()))
