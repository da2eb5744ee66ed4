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

if TYPE_CHECKING:
    from analysis.claims.claim import Claim, Missing, Verdict
    from analysis.claims.experiments import Experiment
    from tracer.claims_runner import Job

    Done = dict[Experiment, list[Path] | Missing]

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
        from analysis.claims.report import claims_text, verdicts_json, verdicts_text

        claims = _chosen(args.only)
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        if args.list:
            print(claims_text(claims, colour=colour).rstrip("\n"))
            return 0
        output = args.output or Path("traces") / time.strftime("claims-%Y%m%d-%H%M%S")
        done, host = _run_all(claims, args, output)
        verdicts = _judge(claims, done)
        document = verdicts_json(verdicts, host)
        _save(output / _RESULT, document + "\n")
        if args.json:
            print(document)
        else:
            print(verdicts_text(verdicts, output, colour=colour).rstrip("\n"))
        print(f"\ntraces: {output}/", file=sys.stderr if args.json else sys.stdout)
        return FAILED if any(verdict.failed for verdict in verdicts) else 0


def _chosen(names: Sequence[str] | None) -> list[Claim]:
    from difflib import get_close_matches

    from analysis.claims.registry import CLAIMS

    known = {claim.name: claim for claim in CLAIMS}
    for name in names or ():
        if name not in known:
            close = get_close_matches(name, known, n=3, cutoff=0.4)
            advice = f"did you mean {' or '.join(close)}? " if close else ""
            raise IophaseError(
                f"no claim '{name}'; {advice}'iophase claims --list' shows them", USAGE
            )
    return [claim for claim in CLAIMS if not names or claim.name in names]


def _order(claims: Sequence[Claim]) -> list[tuple[Experiment, int]]:
    """Return each experiment with the number of its repetition, once, those of a claim in turn."""
    order: dict[tuple[Experiment, int], None] = {}
    for claim in claims:
        for repetition in range(1, claim.repetitions + 1):
            order |= {(one, repetition): None for one in claim.experiments.values()}
    return list(order)


def _run_all(claims: Sequence[Claim], args: Namespace, output: Path) -> tuple[Done, dict[str, str]]:
    """Run every experiment of the claims; one that cannot be run, or fails, does not end it."""
    from analysis.claims.claim import Missing
    from tracer import privileges, progress
    from tracer.claims_runner import run_job
    from tracer.session import attached_program
    from tracer.stopping import stopping

    order = _order(claims)
    done: Done = {}
    with attached_program(args.backend) as program, stopping() as wish:
        privileges.drop()
        for number, (experiment, repetition) in enumerate(order, 1):
            if isinstance(done.get(experiment), Missing):
                continue
            if wish.stop:
                done[experiment] = Missing("interrupted before it was run", failed=True)
                continue
            job = _job(experiment)
            if (reason := _lacking(job)) is not None:
                progress.step(f"[{number}/{len(order)}] {experiment.name}: not here: {reason}")
                done[experiment] = Missing(f"not on this host: {reason}", failed=False)
                continue
            progress.step(f"[{number}/{len(order)}] {experiment.name}")
            directory = output / f"{experiment.name}.{repetition}"
            try:
                run_job(program, job, directory, wish=wish, force=args.force)
            except IophaseError as error:
                if error.exit_code == USAGE:
                    raise
                print(f"iophase: {error}", file=sys.stderr)
                done[experiment] = Missing(f"its experiment failed: {error}", failed=True)
                continue
            traces = done.setdefault(experiment, [])
            assert isinstance(traces, list)
            traces.append(directory)
        return done, {
            "kernel": platform.release(),
            "arch": platform.machine(),
            "backend": program.backend,
        }


def _job(experiment: Experiment) -> Job:
    """Say the same in the words of the servers and the load generator."""
    from analysis.claims.experiments import Trial
    from servers.load import LoadOptions
    from servers.models import by_name
    from tracer.claims_runner import ServerJob, TrialJob

    if isinstance(experiment, Trial):
        return TrialJob(experiment.program, experiment.arguments)
    work = ("--work", str(experiment.work_us)) if experiment.work_us else ()
    options = LoadOptions(
        connections=experiment.connections,
        idle=experiment.idle,
        sizes=(experiment.size,),
        messages=experiment.messages,
        duration=experiment.duration_s,
        rate=experiment.rate,
        burst=experiment.burst,
        arrivals="poisson" if experiment.random else "constant",
        per_request=experiment.per_request,
        suffix="_SB" if experiment.model == "selectors" else "",
    )
    return ServerJob(by_name(experiment.model), options, (*work, *experiment.server_options))


def _lacking(job: Job) -> str | None:
    """Say what this host lacks for a job; None if nothing."""
    from servers.models import by_name
    from tracer.claims_runner import ServerJob

    if isinstance(job, ServerJob):
        return job.model.missing()
    models = [by_name(name) for name in job.arguments]  # an interface is named after its model
    return next((reason for model in models if (reason := model.missing()) is not None), None)


def _judge(claims: Sequence[Claim], done: Done) -> list[Verdict]:
    from analysis.claims.judging import judge
    from analysis.errors import TraceError

    try:
        return [judge(claim, done) for claim in claims]
    except TraceError as error:
        raise IophaseError(str(error)) from error


def _save(path: Path, text: str) -> None:
    """Leave the verdicts beside their traces, where there are any."""
    from tracer.newfile import new_file

    if not path.parent.is_dir():
        return
    path.unlink(missing_ok=True)
    with os.fdopen(new_file(path), "w", encoding="utf-8") as file:
        file.write(text)
