"""``iophase run``."""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.errors import FAILED, LOST, USAGE, IophaseError

if TYPE_CHECKING:
    from servers.load import LoadOptions
    from servers.models import Model
    from tracer.experiment import Outcome

__all__ = ("Run",)

_DURATION_S = 3.0
"""Long enough for steady shares, short enough that six models take half a minute."""
_CONNECTIONS = 10


class Run:
    """Run reference servers under load, traced, and compare waiting with copying.

    One model after the other: its server is started, traced, and put under load by a generator in
    a process of its own, which verifies every reply. Each model leaves a trace directory; the
    table at the end is that of 'iophase report'. Ctrl-C ends the current model early and keeps it.

    Examples:
      sudo iophase run select epoll
      sudo iophase run --all -d 5
      sudo iophase run epoll --connections 100 --idle 900 --size 1024 -o traces/crowd
      sudo iophase run blocking threads --rate 1000
    """

    def prepare_parser(self, parser: ArgumentParser) -> None:
        """Add the models and the load."""
        add = parser.add_argument
        add("models", metavar="MODEL", nargs="*", help="names from 'iophase models'")
        add("--all", action="store_true", help="every model that this host can run")
        add("-o", "--output", type=Path, metavar="DIR", help="where (default: traces/run-TIME)")
        add("--force", action="store_true", help="replace traces that are there")
        add("-c", "--connections", type=int, default=_CONNECTIONS, metavar="N",
            help="busy connections (default %(default)s)")  # fmt: skip
        add("--idle", type=int, default=0, metavar="N", help="silent connections beside them")
        add("--size", type=int, default=64, metavar="B", help="bytes of a message (default 64)")
        add("-d", "--duration", type=float, default=None, metavar="S",
            help=f"seconds of load for each model (default {_DURATION_S:g})")  # fmt: skip
        add("--messages", type=int, metavar="N", help="exactly N messages instead")
        add("--rate", type=float, metavar="R", help="messages/s (default: as fast as they answer)")
        add("--work", type=int, default=0, metavar="MICROSECONDS",
            help="CPU time that the server burns on each message")  # fmt: skip
        add("--backend", choices=("fentry", "kprobe", "tracepoint"),
            help="attach functions this way only (default: the best that works)")  # fmt: skip
        add("--strict", action="store_true", help="exit with 3 when records were lost")
        add("--json", action="store_true", help="print the numbers as JSON")

    def run(self, args: Namespace) -> int:
        """Run the models and print the report."""
        models = _models(args)
        output = args.output or Path("traces") / time.strftime("run-%Y%m%d-%H%M%S")
        done, problems = _run_all(models, args, output)
        if not done:
            raise IophaseError(problems[0] if problems else "run: none of them is for this host")
        problems += [f"{name}: {why}" for name, o in done.items() if (why := _trouble(o))]
        _report([output / name for name in done], args.json)
        print(f"\ntraces: {output}/", file=sys.stderr if args.json else sys.stdout, flush=True)
        for problem in problems:
            print(f"iophase: {problem}", file=sys.stderr)
        if args.strict and any(_lost(outcome) for outcome in done.values()):
            return LOST
        return FAILED if problems else 0


def _models(args: Namespace) -> list[Model]:
    from servers.models import MODELS, by_name

    if args.all == bool(args.models):
        raise IophaseError("run: name models, or give --all; 'iophase models' lists them", USAGE)
    if args.all:
        return list(MODELS)
    try:
        return [by_name(name) for name in args.models]
    except KeyError as error:
        raise IophaseError(f"{error.args[0]}; see 'iophase models'", USAGE) from None


def _run_all(
    models: list[Model], args: Namespace, output: Path
) -> tuple[dict[str, Outcome], list[str]]:
    from tracer import privileges, progress
    from tracer.experiment import run_model
    from tracer.session import attached_program
    from tracer.stopping import stopping

    options = _options(args)
    server_arguments = ["--work", str(args.work)] if args.work else []
    done: dict[str, Outcome] = {}
    problems: list[str] = []
    with stopping() as wish, attached_program(args.backend) as program:
        privileges.drop()
        for number, model in enumerate(models, 1):
            label = f"[{number}/{len(models)}] {model.name}"
            if wish.stop:
                progress.step(f"stopped before {', '.join(m.name for m in models[number - 1 :])}")
                break
            if (reason := model.missing()) is not None:
                progress.step(f"{label}: not on this host: {reason}")
                continue
            progress.step(f"{label} ...")
            try:
                done[model.name] = run_model(
                    program,
                    model,
                    options,
                    output / model.name,
                    wish=wish,
                    label=label,
                    server_arguments=server_arguments,
                    force=args.force,
                )
            except IophaseError as error:
                if error.exit_code == USAGE:
                    raise
                problems.append(f"{model.name}: {error}")
    return done, problems


def _options(args: Namespace) -> LoadOptions:
    from servers.load import LoadOptions

    duration = args.duration
    if duration is None and args.messages is None:
        duration = _DURATION_S
    return LoadOptions(
        connections=args.connections,
        idle=args.idle,
        sizes=(args.size,),
        rate=args.rate,
        duration=duration,
        messages=args.messages,
    )


def _report(directories: list[Path], as_json: bool) -> None:
    from analysis.report import report_json, report_text
    from servers.models import MODELS

    families = {model.name: model.family for model in MODELS}
    if as_json:
        print(report_json(directories, families=families))
        return
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(report_text(directories, families=families, colour=colour).rstrip("\n"))


def _trouble(outcome: Outcome) -> str | None:
    """Say what went wrong in the load; its trace is right all the same."""
    result = outcome.result
    if not result.failed:
        return None
    if not result.messages:
        return "not one message was answered"
    kinds = ", ".join(f"{kind}: {count}" for kind, count in result.error_kinds.items())
    return f"the load had {result.errors:,} errors ({kinds})"


def _lost(outcome: Outcome) -> int:
    lost = outcome.info.lost
    return lost["total"] if lost else 0
