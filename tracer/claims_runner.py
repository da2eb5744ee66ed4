"""Makes the traces that claims are judged by: servers under load, and trials; each run once.

Beside each trace lies ``seen.json``: what /proc said of the server while all its clients were
connected, or what the trial said of itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.program import Program
from servers.load import Load, LoadError, LoadOptions
from servers.models import by_name
from tracer import progress
from tracer.errors import USAGE, IophaseError
from tracer.newfile import new_file
from tracer.processes import descendants_of, socket_inodes
from tracer.reference import ReferenceServer
from tracer.session import Session
from tracer.stopping import Wish
from tracer.traceinfo import TraceInfo

__all__ = ("SEEN_FILE", "Job", "Untraced", "run_jobs")

SEEN_FILE = "seen.json"

_LOOK_S = 0.05
"""How often a run is asked whether it has ended: runs are short."""
_SETTLED_LOOKS = 2
"""A server that has accepted all clients has settled when so many looks in a row found it unchanged
and asleep."""
_POLLING_LOOKS = 20
"""One that polls never sleeps: it has when so many found it unchanged."""
_SETTLE_S = 10.0
"""A full queue of connections makes TCP try again after a second or more: tcp(7)."""
_TRIAL_S = 30.0
_ATTEMPTS = 2
"""A run that lost events is made again once: the machine may have been busy with something else."""
_SUFFIXES = {"selectors": "_SB"}
"""What a server adds to each of its replies."""
_SPECIAL_MAPPING = re.compile(r"(anon_inode:\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Job:
    """One run of an experiment: ``load`` makes ``program`` a model, without it is a trial.

    ``load`` are options of ``servers.load.LoadOptions``; a trial is a module of ``tracer.trials``.
    """

    name: str
    repetition: int
    program: str
    arguments: tuple[str, ...]
    load: Mapping[str, Any] | None

    def lacking(self) -> str | None:
        """Say what this host lacks for it; None if nothing."""
        # an interface that a trial is given bears the name of its model
        models = self.arguments if self.load is None else (self.program,)
        return next((reason for name in models if (reason := by_name(name).missing())), None)


@dataclass(frozen=True)
class Untraced:
    """Why there is no trace; ``failed``: this host could have made one."""

    reason: str
    failed: bool


def run_jobs(
    program: Program, jobs: Sequence[Job], output: Path, *, wish: Wish, force: bool = False
) -> dict[str, list[Path] | Untraced]:
    """Run the jobs one after the other; return the traces of each name in ``output``.

    ``program`` is attached. A job that cannot be run, or fails, does not end it; nor does it when a
    load had failures: a claim may be about them. Raises ``IophaseError`` for wrong usage.
    """
    done: dict[str, list[Path] | Untraced] = {}
    for number, job in enumerate(jobs, 1):
        traces = done.setdefault(job.name, [])
        if isinstance(traces, Untraced):
            continue
        where = f"[{number}/{len(jobs)}] {job.name}"
        try:
            if wish.stop:
                raise IophaseError("interrupted")
            if (reason := job.lacking()) is not None:
                progress.step(f"{where}: not on this host: {reason}")
                done[job.name] = Untraced(f"not on this host: {reason}", failed=False)
                continue
            directory = output / f"{job.name}.{job.repetition}"
            with wish.heeded():
                progress.step(where)
                _run(program, job, directory, wish, force)
            traces.append(directory)
        except IophaseError as error:
            if error.exit_code == USAGE:
                raise
            if not wish.stop:
                progress.step(f"iophase: {job.name}: {error}")
            if not traces:  # an earlier repetition is better than nothing
                done[job.name] = Untraced(f"its experiment failed: {error}", failed=True)
    return done


def _run(program: Program, job: Job, directory: Path, wish: Wish, force: bool) -> None:
    """Make a trace, and once more if events were lost."""
    for attempt in range(_ATTEMPTS):
        make = _run_trial if job.load is None else _run_server
        info, seen = make(program, job, directory, wish, force or attempt > 0)
        _write(directory / SEEN_FILE, seen)
        if wish.stop:
            raise IophaseError("interrupted")
        if not (info.lost and info.lost["total"]):
            return


def _write(path: Path, content: dict[str, Any]) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(new_file(path), "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.write("\n")


def _run_server(
    program: Program, job: Job, output: Path, wish: Wish, force: bool
) -> tuple[TraceInfo, dict[str, Any]]:
    model = by_name(job.program)
    options = LoadOptions(**(job.load or {}), suffix=_SUFFIXES.get(model.name, ""))
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(Session(program, output, model=model.name, force=force))
        server = stack.enter_context(ReferenceServer(model, job.arguments))
        try:
            load = stack.enter_context(Load(server.address, options))
            session.follow([server.pid])
            clients = options.idle + (0 if options.per_request else options.connections)
            accepted = min(clients, model.connections or clients)
            sockets = _sockets(server.pid) + accepted
            load.connect()
            seen = _settled(server.pid, sockets)
            load.start()
            while not load.done(_LOOK_S):
                if wish.stop or session.failed:
                    load.stop()
                    break
            result = load.result()
        except LoadError as error:
            raise IophaseError(str(error)) from error
        session.stop()
        workload = {**result.to_json(), "server": server.stop()}
        return session.save(workload=workload), seen


def _settled(pid: int, sockets: int) -> dict[str, Any]:
    """Look at a server until it has so many sockets and goes on to nothing; return the last look.

    That a client is connected does not mean that it was accepted, or ever will be: listen(2).
    """
    limit = time.monotonic() + _SETTLE_S
    seen = _look(pid)
    unchanged = 0
    while unchanged < _POLLING_LOOKS and time.monotonic() < limit:
        if unchanged >= _SETTLED_LOOKS and _sleeps(pid):
            break
        time.sleep(_LOOK_S / 2)
        before, seen = seen, _look(pid)
        all_there = _sockets(pid) >= sockets
        unchanged = unchanged + 1 if all_there and seen == before else 0
    return seen


def _sockets(pid: int) -> int:
    """Return how many sockets a process and its children have open."""
    return len(set().union(*map(socket_inodes, (pid, *descendants_of(pid)))))


def _sleeps(pid: int) -> bool:
    """Tell whether all threads of a process sleep; see proc(5), /proc/pid/stat."""
    try:
        stats = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:  # a thread has just ended
        return False
    return all(stat.rpartition(")")[2].split()[0] == "S" for stat in stats)


def _look(pid: int) -> dict[str, Any]:
    """Return memory, threads and special mappings of a process; see proc(5)."""
    folder = Path(f"/proc/{pid}")
    try:
        status = dict(
            line.split(":", 1)
            for line in (folder / "status").read_text().splitlines()
            if ":" in line
        )
        maps = (folder / "maps").read_text()
    except OSError as error:
        raise IophaseError(f"process {pid}: cannot look at it: {error.strerror}") from error
    return {
        "rss_kib": int(status["VmRSS"].split()[0]),
        "threads": int(status["Threads"]),
        "mappings": dict(Counter(_SPECIAL_MAPPING.findall(maps))),
    }


def _run_trial(
    program: Program, job: Job, output: Path, wish: Wish, force: bool
) -> tuple[TraceInfo, dict[str, Any]]:
    command = [sys.executable, "-m", f"tracer.trials.{job.program}", *job.arguments]
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(Session(program, output, command=command, force=force))
        child = stack.enter_context(
            subprocess.Popen(
                command,
                cwd=Path(__file__).resolve().parent.parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                process_group=0,  # a Ctrl-C is for the tool: a trial ends by itself
            )
        )
        stack.callback(child.kill)
        assert child.stdout is not None
        if child.stdout.readline() == "ready\n":
            session.follow([child.pid])
        answer = _answer(child, job)
        session.stop()
        return session.save(), answer


def _answer(child: subprocess.Popen[str], job: Job) -> dict[str, Any]:
    """Let a trial begin, wait for its end, and return what it said."""
    try:
        said, errors = child.communicate("go\n", timeout=_TRIAL_S)
    except subprocess.TimeoutExpired as error:
        raise IophaseError(f"trial {job.program}: did not end in {_TRIAL_S:.0f} s") from error
    if child.returncode:
        reason = errors.strip().rpartition("\n")[2] or f"ended with {child.returncode}"
        raise IophaseError(f"trial {job.program}: {reason}")
    content: dict[str, Any] = json.loads(said)
    return content
