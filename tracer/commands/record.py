"""``iophase record``."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tracer import progress
from tracer.errors import FAILED, LOST, USAGE, IophaseError
from tracer.target_arguments import add_narrowing, add_targets, seconds
from tracer.terminal import coloured

if TYPE_CHECKING:
    from tracer.launched import Launched
    from tracer.scope import Scope
    from tracer.session import Session
    from tracer.stopping import Wish
    from tracer.targets import Targets
    from tracer.traceinfo import Target

__all__ = ("Record",)

_LOOK_S = 0.1
"""How often it is looked whether the target still runs."""
_MOST_IN_ONE = 1 << 32
"""Classes of connections that a sample can tell apart: see ``tracer.thinning``."""
_LARGEST_RING = 2 << 30
"""The size is a 32-bit number (struct bpf_map_def, max_entries), and a power of two."""
_COMMAND_WIDTH = 50
"""Of a command in the start line, so that the line fits a terminal."""


class Record:
    """Trace running programs, or a command, until Ctrl-C or their end.

    Follows all threads of the processes, and what they fork. Leaves a trace directory, and prints
    where the time went, the I/O models with what shows them, the connections whose data waited
    longest, and a verdict in words. Only the named processes are traced; no payload byte is ever
    read. Processes are also found by what they are, then those that appear later are traced, too;
    several conditions narrow each other down.

    Examples:
      sudo iophase record -p 1234                  a running server, until Ctrl-C
      sudo iophase record -p 1234,1240 -d 10       two of them, for ten seconds
      sudo iophase record --port 6379              whoever listens there
      sudo iophase record --comm nginx --wait      every nginx, also those started later
      sudo iophase record --cgroup nginx.service --peer 10.0.0.0/8
      sudo iophase record --port 443 --summary -d 3600
      sudo iophase record -o traces/curl -- curl -s http://127.0.0.1:8080/
    """

    def prepare_parser(self, parser: ArgumentParser) -> None:
        """Add the target and the output."""
        add = parser.add_argument
        add("-d", "--duration", type=seconds, metavar="S", help="stop after so many seconds")
        add("-o", "--output", type=Path, metavar="DIR", help="where (default: traces/record-TIME)")
        add("--force", action="store_true", help="replace the trace that is there")
        add("--backend", choices=("fentry", "kprobe", "tracepoint"),
            help="attach functions this way only (default: the best that works)")  # fmt: skip
        add("--strict", action="store_true", help="exit with 3 when records were lost")
        add("--ring", type=_ring_bytes, metavar="MIB", help="ring buffer (a power of two; 16)")
        add_targets(parser)
        add_narrowing(parser)
        long = parser.add_argument_group("long recordings").add_argument
        long("--summary", action="store_true", help="keep sums instead of a row per call")
        long("--sample", type=_sample, default=1, metavar="1/N",
            help="keep the rows of one connection in N")  # fmt: skip
        long("--rotate", type=_rotated, metavar="SIZE",
            help="keep only the newest rows: of SIZE raw records, 500M or 4G")  # fmt: skip
        add("command", metavar="-- COMMAND", nargs=argparse.REMAINDER, help="start and trace it")

    def run(self, args: Namespace) -> int:
        """Record, save, and print the summary."""
        from probes.program import RING_BYTES
        from tracer import privileges
        from tracer.launched import Launched
        from tracer.session import Session, attached_program
        from tracer.standing import submitting
        from tracer.stopping import stopping

        command = _command(args)
        scope, wanted = _wanted(args, command)
        pids = _found(wanted, scope)
        output = args.output or Path("traces") / time.strftime("record-%Y%m%d-%H%M%S")
        with contextlib.ExitStack() as stack:
            wish = stack.enter_context(stopping())
            program = stack.enter_context(
                attached_program(
                    args.backend, args.ring or RING_BYTES, submits=not pids or submitting(pids)
                )
            )
            session = stack.enter_context(
                Session(program, output, command=command or None, scope=scope, force=args.force)
            )
            launched = Launched(command) if command else None
            if launched is not None:
                stack.callback(launched.stop)
                pids = [launched.pid]
            privileges.drop()
            with wish.heeded():
                session.follow(pids, comm=_comm(command))
                _announce(session, wanted, command, args.duration)
                if launched is not None:
                    launched.go()
                _wait(session, wanted, launched, wish, args.duration)
                session.stop()
                if not session.targets:
                    raise IophaseError(f"{wanted}: none has appeared: nothing was recorded")
            with progress.conversion("writing the trace") as show:
                info = session.save(progress=show)
        _report(output)
        if launched is not None and launched.failed and not wish.stop:
            return _failed(launched)
        return LOST if args.strict and info.lost and info.lost["total"] else 0


def _sample(text: str) -> int:
    one, _, many = text.partition("/")
    if one != "1" or not many.isdecimal() or not 1 <= int(many) <= _MOST_IN_ONE:
        raise argparse.ArgumentTypeError(f"{text}: one connection in N is written 1/N")
    return int(many)


def _rotated(text: str) -> int:
    from tracer.rotation import LEAST_BYTES

    unit = {"M": 1 << 20, "G": 1 << 30}.get(text[-1:].upper(), 0)
    if not unit or not text[:-1].isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: a size is written 500M or 4G")
    size = int(text[:-1]) * unit
    if size < LEAST_BYTES:
        raise argparse.ArgumentTypeError(f"{text}: at least {LEAST_BYTES >> 20}M")
    return size


def _ring_bytes(text: str) -> int:
    try:
        size = int(float(text) * (1 << 20))
    except (ValueError, OverflowError):
        size = 0
    if size & (size - 1) or not os.sysconf("SC_PAGE_SIZE") <= size <= _LARGEST_RING:
        raise argparse.ArgumentTypeError(
            f"{text} MiB is not a power of two, from a page to {_LARGEST_RING >> 20} MiB"
        )
    return size


def _command(args: Namespace) -> list[str]:
    command: list[str] = args.command[1:] if args.command[:1] == ["--"] else args.command
    if command and shutil.which(command[0]) is None:
        raise IophaseError(
            f"{command[0]}: no such command, or not executable: check the name", USAGE
        )
    return command


def _wanted(args: Namespace, command: list[str]) -> tuple[Scope, Targets]:
    from tracer.narrowing import narrowing
    from tracer.scope import Scope
    from tracer.targets import chosen

    narrowed = narrowing(args)
    targets = chosen(args, command, narrowed.tids)
    if args.summary and (narrowed or args.sample > 1):
        raise IophaseError(
            "record: --summary keeps sums of everything: leave out -t, --fd, --peer and --sample",
            USAGE,
        )
    if args.summary and args.rotate:
        raise IophaseError(
            "record: --summary keeps no rows that --rotate could give up: leave one out", USAGE
        )
    scope = Scope(targets.as_dict() or None, narrowed, args.sample, args.summary, args.rotate)
    return scope, targets


def _found(targets: Targets, scope: Scope) -> list[int]:
    """Return the processes to begin with; raise ``IophaseError`` where there must be one."""
    from tracer.targets import check_threads

    pids = targets.find()
    if not targets.wait:
        if targets.searching and not pids:
            raise targets.nothing()
        if pids:
            check_threads(scope.narrowing.tids, pids)
    return pids


def _comm(command: list[str]) -> str | None:
    """Return the name that the kernel will give the command (execve(2): the file's, cut)."""
    from tracer.comm import COMM_BYTES, printable

    return printable(os.fsencode(Path(command[0]).name)[:COMM_BYTES]) if command else None


def _announce(
    session: Session, wanted: Targets, command: list[str], duration: float | None
) -> None:
    what = ", ".join(f"{target['comm']} ({target['pid']})" for target in session.targets)
    if wanted.searching:
        what = f"{wanted} ({len(session.targets)} now)"
    if command:
        what = " ".join(shlex.join(command).split())
        what = what if len(what) <= _COMMAND_WIDTH else what[:_COMMAND_WIDTH] + " ..."
    until = "until it ends" if len(session.targets) == 1 else "until they end"
    end = f"for {duration:g} s" if duration else "until Ctrl-C" if wanted.wait else until
    progress.step(f"Tracing {what} {end} ... Hit Ctrl-C to end.")


def _wait(
    session: Session,
    wanted: Targets,
    launched: Launched | None,
    wish: Wish,
    duration: float | None,
) -> None:
    began = time.monotonic()
    appearing = wanted.appearing()
    refusals = _Refusals()
    limit = began + duration if duration else float("inf")
    with progress.status() as show:
        refusals.say(session.refused, appearing.hidden)
        while not session.failed and (wanted.wait or not _over(session, launched)):
            if wish.wait(min(_LOOK_S, max(0.0, limit - time.monotonic()))):
                return
            if time.monotonic() >= limit:
                return
            if wanted.searching:
                session.pick_up(appearing.look())
                session.found_within(appearing.latency_s)
                refusals.say(session.refused, appearing.hidden)
            show(f"{time.monotonic() - began:.0f} s, {session.records:,} records")


class _Refusals:
    """Says once of each that is not traced, though the user wishes it, why."""

    def __init__(self) -> None:
        self._said = 0
        self._hidden_said = False

    def say(self, refused: Sequence[Target], hidden: str | None) -> None:
        """Say what is new; ``hidden`` is of a listener that cannot be found."""
        from tracer.targets import refused_text

        for target in refused[self._said :]:
            progress.step(f"iophase: {refused_text(**target)}; it is not traced")
        self._said = len(refused)
        if hidden is not None and not self._hidden_said:
            progress.step(f"iophase: {hidden}")
            self._hidden_said = True


def _over(session: Session, launched: Launched | None) -> bool:
    return not session.alive() if launched is None else launched.ended()


def _report(output: Path) -> None:
    from analysis.recording import recording_text
    from analysis.report import report_text

    colour = coloured()
    print(report_text([output], colour=colour))
    print(recording_text(output, colour=colour).rstrip("\n"))
    print(f"\ntrace: {output}/")


def _failed(launched: Launched) -> int:
    status = launched.status or 0
    how = f"status {status}" if status > 0 else f"signal {-status}"
    progress.step(f"iophase: {launched.command[0]}: ended with {how}; its trace is complete")
    return FAILED
