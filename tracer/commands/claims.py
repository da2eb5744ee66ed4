"""``iophase claims``."""

from __future__ import annotations

import os
import platform
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.errors import FAILED, USAGE, IophaseError
from tracer.terminal import coloured

if TYPE_CHECKING:
    from tracer.claims_runner import Job, Untraced

__all__ = ("Claims",)

_RESULT = "claims.json"


class Claims:
    """Put the claims of the article to the test, and print a verdict on each.

    Each claim about the I/O models is an experiment: reference servers under load, or a small
    program that does one thing many times, run traced; what it would mean in numbers was written
    down before. The verdict is "holds", "does not hold", or "cannot be told" on this host, with the
    numbers, how sure they are, and the traces behind them. All of them take a few minutes; leave
    the machine alone meanwhile. Ctrl-C ends it early, and what was run is judged.

    Examples:
      iophase claims --list                              what can be tested
      sudo iophase claims                                all of them
      sudo iophase claims --only epoll-shares-memory     one
      iophase lab 6.1 -- claims --only epoll-calls-back  one that needs function probes
    """

    def prepare_parser(self, parser: ArgumentParser) -> None:
        """Add the choice of claims and the form of the output."""
        add = parser.add_argument
        add("--only", action="append", metavar="NAME", help="this claim (again for a further one)")
        add("--list", action="store_true", help="print the claims, and run nothing")
        add("-o", "--output", type=Path, metavar="DIR", help="where (default: traces/claims-TIME)")
        add("--force", action="store_true", help="replace traces that are there")
        add("--backend", choices=("fentry", "kprobe", "tracepoint"),
            help="attach functions this way only (default: the best that works)")  # fmt: skip
        add("--json", action="store_true", help="print one JSON object instead")

    def run(self, args: Namespace) -> int:
        """Run the experiments, judge, print; 1 when an experiment failed."""
        from analysis.claims.registry import choose
        from analysis.claims.report import claims_text

        try:
            claims = choose(args.only or ())
        except ValueError as error:
            raise IophaseError(f"{error}; 'iophase claims --list' shows all", USAGE) from None
        if args.list:
            print(claims_text(claims, colour=coloured()).rstrip("\n"))
            return 0
        return _test([claim.name for claim in claims], args)


def _test(names: Sequence[str], args: Namespace) -> int:
    from analysis.claims.claim import Missing
    from analysis.claims.judging import judge
    from analysis.claims.registry import choose, order
    from analysis.claims.report import verdicts_json, verdicts_text
    from analysis.errors import TraceError
    from tracer.claims_runner import Job, Untraced

    claims = choose(names)
    output = args.output or Path("traces") / time.strftime("claims-%Y%m%d-%H%M%S")
    jobs = [
        Job(one.name, repetition, one.program, one.arguments, one.load)
        for one, repetition in order(claims)
    ]
    done, host = _run(jobs, output, args)
    traces = sum(len(found) for found in done.values() if not isinstance(found, Untraced))
    expected = sum(not isinstance(done[job.name], Untraced) for job in jobs)
    results = {
        name: Missing(found.reason, found.failed) if isinstance(found, Untraced) else found
        for name, found in done.items()
    }
    try:
        verdicts = [judge(claim, results) for claim in claims]
    except TraceError as error:
        raise IophaseError(str(error)) from error
    document = verdicts_json(verdicts, host)
    _save(output / _RESULT, document)
    if args.json:
        print(document)
    else:
        print(verdicts_text(verdicts, output, colour=coloured()).rstrip("\n"))
    print(f"\ntraces: {output}/", file=sys.stderr if args.json else sys.stdout)
    return 0 if traces == expected and not any(verdict.failed for verdict in verdicts) else FAILED


def _run(
    jobs: Sequence[Job], output: Path, args: Namespace
) -> tuple[dict[str, list[Path] | Untraced], dict[str, str]]:
    """Run the jobs by one attached program; return their traces, and where they were made."""
    from tracer import privileges
    from tracer.claims_runner import run_jobs
    from tracer.session import attached_program
    from tracer.stopping import stopping

    with attached_program(args.backend) as program, stopping() as wish:
        privileges.drop()
        done = run_jobs(program, jobs, output, wish=wish, force=args.force)
        host = {
            "kernel": platform.release(),
            "arch": platform.machine(),
            "backend": program.backend,
        }
        return done, host


def _save(path: Path, text: str) -> None:
    """Leave the verdicts beside their traces, where there are any."""
    from tracer.newfile import new_file

    if path.parent.is_dir():
        path.unlink(missing_ok=True)
        with os.fdopen(new_file(path), "w", encoding="utf-8") as file:
            file.write(text + "\n")
