"""Whom to trace: processes by number, name, port or cgroup, now and when they appear later."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tracer import processes
from tracer.comm import COMM_BYTES
from tracer.errors import FAILED, USAGE, IophaseError

__all__ = ("Appearing", "Targets", "check_threads", "chosen", "refused_text")

_PF_KTHREAD = 0x00200000
_LOOKING = "CAP_SYS_PTRACE: run with sudo"

LOOK_S = 0.1
"""How often it is looked for processes that appear ..."""
_LOOK_SHARE = 0.05
"""... but looking may take no more of a CPU than this."""


@dataclass(frozen=True)
class Targets:
    """What the user asked for; several conditions narrow each other down."""

    pids: tuple[int, ...] = ()
    comm: str | None = None
    port: int | None = None
    cgroup: str | None = None
    wait: bool = False
    """Go on looking while nothing matches."""

    @property
    def searching(self) -> bool:
        """Whether processes are found by what they are, and not by their numbers."""
        return not self.pids and (self.comm, self.port, self.cgroup) != (None, None, None)

    def as_dict(self) -> dict[str, Any]:
        """Return the conditions for ``trace.json``."""
        wanted = {"pids": list(self.pids), "comm": self.comm, "port": self.port}
        wanted["cgroup"] = self.cgroup
        return {name: value for name, value in wanted.items() if value not in (None, [])}

    def __str__(self) -> str:
        parts = []
        if self.comm is not None:
            parts.append(f"processes called '{self.comm}'")
        if self.cgroup is not None:
            parts.append(f"processes in cgroup {self.cgroup}")
        if self.port is not None:
            parts.append(f"who listens on port {self.port}")
        return " and ".join(parts) or ", ".join(f"process {pid}" for pid in self.pids)

    def find(self) -> list[int]:
        """Return the processes that match now; those of ``pids`` must exist.

        Raises ``IophaseError`` when a process cannot be traced, or is not what else was asked for.
        """
        for pid in self.pids:
            _check_process(pid)
        found = self.matching()
        for pid in found:
            _check_access(pid)
        return found

    def matching(self) -> list[int]:
        """Return the processes that match now, whether or not they can be traced."""
        found = set(self.pids) if self.pids else None
        for matching, what in self._conditions():
            for pid in sorted(set(self.pids) - matching):
                raise IophaseError(
                    f"process {pid} ({processes.comm_of(pid)}) is none of the {what}:"
                    " the targets contradict each other; leave one out",
                    USAGE,
                )
            found = matching if found is None else found & matching
        mine = (found or set()) - {os.getpid()}
        return sorted(pid for pid in mine if not _is_kernel_thread(pid))

    def _conditions(self) -> Iterator[tuple[set[int], str]]:
        if self.cgroup is not None:
            yield self._in_cgroup(self.cgroup), f"processes in cgroup {self.cgroup}"
        if self.comm is not None:
            yield _called(self.comm), f"processes called '{self.comm}'"
        if self.port is not None:
            yield _listening(self.port), f"processes that listen on port {self.port}"

    def _in_cgroup(self, cgroup: str) -> set[int]:
        from tracer.cgroups import find_cgroups, processes_in

        try:
            return processes_in(find_cgroups(cgroup))
        except IophaseError:
            if self.wait:
                return set()
            raise

    def nothing(self) -> IophaseError:
        """Return the error that nothing matches."""
        hint = "--wait waits for it"
        if self.comm is not None and self.port is None and self.cgroup is None:
            if any(map(_is_kernel_thread, _called(self.comm))):
                return IophaseError(
                    f"'{self.comm}' is a kernel thread: it makes no system calls", USAGE
                )
            names = {processes.comm_of(pid) for pid in _pids() if not _is_kernel_thread(pid)}
            close = get_close_matches(self.comm, names - {""}, n=1)
            what = f"no process is called '{self.comm}'"
            return IophaseError(
                f"{what}; did you mean '{close[0]}'? {hint}" if close else f"{what}; {hint}", USAGE
            )
        if self.port is not None and self.comm is None and self.cgroup is None:
            if (hidden := self.hidden()) is not None:
                return IophaseError(hidden)
            what = f"port {self.port}: nobody listens there in this network namespace"
            return IophaseError(f"{what}; {hint}", USAGE)
        if self.cgroup is not None and self.comm is None and self.port is None:
            return IophaseError(f"cgroup {self.cgroup}: no process is in it; {hint}", USAGE)
        return IophaseError(f"no process matches all of: {self}; {hint}", USAGE)

    def hidden(self) -> str | None:
        """Say that somebody listens at the port, where nobody who does was found."""
        if self.port is None or (self.comm, self.cgroup) != (None, None):
            return None
        if not _listeners(self.port):
            return None
        who = f"belongs to another user: finding out needs {_LOOKING}"
        if not os.geteuid():
            who = "is none of the processes that can be seen here"
        return f"port {self.port}: who listens there {who}"

    def appearing(self) -> Appearing:
        """Return what looks for further matches."""
        return Appearing(self)


class Appearing:
    """Looks for further processes every ``LOOK_S``, or less often where looking is slow."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._next = self._last = time.monotonic()
        self.latency_s = 0.0
        """The longest time between two looks: how late a process may have been found."""
        self.hidden: str | None = None
        """What ``Targets.hidden`` says; two looks must agree, for a server may just be ending."""
        self._seen_hidden: str | None = None

    def look(self) -> list[int]:
        """Return the processes that match now; nothing while it is too early to look again."""
        now = time.monotonic()
        if not self._targets.searching or now < self._next:
            return []
        begun = time.thread_time()
        found = self._targets.matching()
        before, self._seen_hidden = self._seen_hidden, None if found else self._targets.hidden()
        self.hidden = self.hidden or (before and self._seen_hidden)
        self.latency_s = max(self.latency_s, now - self._last)
        self._last = now
        self._next = now + max(LOOK_S, (time.thread_time() - begun) / _LOOK_SHARE)
        return found


def _process_of_thread(tid: int) -> int:
    """Return the process of a thread; raise ``IophaseError`` when there is none."""
    status = _status(tid)
    if not status:
        raise IophaseError(f"thread {tid}: there is none: nothing to trace", USAGE)
    return int(status["Tgid"])


def check_threads(tids: tuple[int, ...], pids: list[int]) -> None:
    """Raise ``IophaseError`` for a thread of a process that is not traced."""
    for tid in tids:
        if (pid := _process_of_thread(tid)) not in pids:
            raise IophaseError(
                f"thread {tid} is of process {pid} ({processes.comm_of(pid)}), which is not among"
                " the targets: they contradict each other; leave one out",
                USAGE,
            )


def chosen(args: Namespace, command: list[str], tids: tuple[int, ...] = ()) -> Targets:
    """Return the targets that the arguments name; raise ``IophaseError`` for nonsense.

    ``command`` excludes every other target; without any, threads ``tids`` name their processes.
    """
    named = [
        option
        for option in ("pid", "comm", "port", "cgroup")
        if getattr(args, option) not in (None, "")
    ]
    if command and (named or args.wait):
        extra = f"--{named[0]}" if named else "--wait"
        extra = extra.replace("--pid", "-p")
        raise IophaseError(
            f"{args.verb}: {extra} and -- COMMAND contradict each other: leave one out", USAGE
        )
    if not command and not named and tids:
        return Targets(pids=tuple(dict.fromkeys(map(_process_of_thread, tids))))
    if not command and not named:
        ways = "-p PID, --comm NAME, --port N or --cgroup PATH"
        if "command" in args:
            ways += ", or -- COMMAND"
        raise IophaseError(f"{args.verb}: name a target: {ways}", USAGE)
    if args.port is not None and not 0 < args.port < 65536:
        raise IophaseError(f"port {args.port}: ports are 1 to 65535", USAGE)
    if args.wait and args.pid:
        raise IophaseError(
            f"{args.verb}: -p and --wait contradict each other: numbers are given by the kernel;"
            " wait for a name, a port or a cgroup",
            USAGE,
        )
    return Targets(_numbers(args), args.comm, args.port, args.cgroup, args.wait)


def _numbers(args: Namespace) -> tuple[int, ...]:
    try:
        pids = tuple(dict.fromkeys(map(int, args.pid.split(",")))) if args.pid else ()
    except ValueError:
        pids = (0,)
    if any(pid <= 0 for pid in pids):
        raise IophaseError(f"-p {args.pid}: not a list of process numbers", USAGE)
    return pids


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _called(name: str) -> set[int]:
    kept = os.fsencode(name)[:COMM_BYTES]
    return {pid for pid in _pids() if processes.raw_comm_of(pid) == kept}


def _listeners(port: int) -> set[int]:
    """Return the inodes of the sockets that listen at a port."""
    from tracer.sockdiag import listeners

    return {found.inode for found in listeners(port)}


def _listening(port: int) -> set[int]:
    """Return the processes that have a listening socket of this port open."""
    inodes = _listeners(port)
    return {pid for pid in _pids() if inodes & processes.socket_inodes(pid)} if inodes else set()


def _is_kernel_thread(pid: int) -> bool:
    """Tell by the task's flags (proc(5), stat); False if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return bool(int(stat.rpartition(b")")[2].split()[6]) & _PF_KTHREAD)


def _status(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _check_process(pid: int) -> None:
    """Raise ``IophaseError`` that says why a process cannot be traced, and what to do."""
    status = _status(pid)
    if not status:
        raise IophaseError(f"process {pid}: there is none: nothing to trace", USAGE)
    comm = processes.comm_of(pid)
    name = f"process {pid} ({comm})"
    if (leader := int(status["Tgid"])) != pid:
        raise IophaseError(
            f"{pid} ({comm}) is a thread of process {leader}: use -p {leader} -t {pid}",
            USAGE,
        )
    if _is_kernel_thread(pid):
        raise IophaseError(f"{name} is a kernel thread: it makes no system calls", USAGE)
    if status["State"].startswith(("Z", "X")):
        raise IophaseError(f"{name} has ended: nothing to trace", USAGE)
    if pid == os.getpid():
        raise IophaseError(f"{name} is iophase itself: it cannot trace itself", USAGE)


def _check_access(pid: int) -> None:
    """Raise ``IophaseError`` when this process may not look into another one."""
    if processes.is_closed(pid):
        raise IophaseError(refused_text(pid, processes.comm_of(pid)), FAILED)


def refused_text(pid: int, comm: str) -> str:
    """Say why a process may not be looked into, and what to do."""
    status = _status(pid)
    whose = f"user {status['Uid'].split()[0]}" if status else "somebody else"
    needs = f"needs {_LOOKING}" if os.geteuid() else "is refused here even to root"
    return f"process {pid} ({comm}) belongs to {whose}: looking into it {needs}"
