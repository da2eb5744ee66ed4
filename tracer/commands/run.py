"""``iophase run``."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.errors import FAILED, LOST, USAGE, IophaseError
from tracer.terminal import coloured

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from servers.load import LoadOptions
    from servers.models import Model
    from tracer.experiment import Outcome
    from tracer.network import Network

__all__ = ("Run",)

_DURATION_S = 3.0
"""Long enough for steady shares, short enough that six models take half a minute."""

_LINK = ("delay", "loss", "bandwidth")
"""The arguments that shape a network, and need one."""


class Run:
    """Run reference servers under load, traced, and compare waiting with copying.

    One model after the other: its server is started, traced, and put under load by a generator in
    a process of its own, which verifies every reply. Each model leaves a trace directory; the
    table at the end is that of 'iophase report', and a model that cannot run here, or cannot take
    such a load, is a row with the reason. Ctrl-C ends the current model early and keeps it.

    With --network veth, server and clients are in network namespaces of their own, which are
    removed at the end; --delay, --loss and --bandwidth hold for each direction.

    Examples:
      sudo iophase run select epoll
      sudo iophase run --all -d 5
      sudo iophase run epoll --connections 100 --idle 900 --size 1024 -o traces/crowd
      sudo iophase run blocking threads --rate 1000 --poisson
      sudo iophase run epoll io_uring --size 64,4096,65536 --transport unix
      sudo iophase run --all --network veth --delay 5 --bandwidth 100
    """

    def prepare_parser(self, parser: ArgumentParser) -> None:
        """Add the models, the load generator's own arguments, and the network."""
        from servers.load import add_options

        add = parser.add_argument
        add("models", metavar="MODEL", nargs="*", help="names from 'iophase models'")
        add("--all", action="store_true", help="every model that this host can run")
        add("-o", "--output", type=Path, metavar="DIR", help="where (default: traces/run-TIME)")
        add("--force", action="store_true", help="replace traces that are there")
        add("--work", type=int, default=0, metavar="MICROSECONDS",
            help="CPU time that the server burns on each message")  # fmt: skip
        add("--backend", choices=("fentry", "kprobe", "tracepoint"),
            help="attach functions this way only (default: the best that works)")  # fmt: skip
        add("--strict", action="store_true", help="exit with 3 when records were lost")
        add("--json", action="store_true", help="print the numbers as JSON")
        add_options(parser.add_argument_group("load"), _DURATION_S)
        _add_network(parser)

    def run(self, args: Namespace) -> int:
        """Run the models and print the report."""
        models, options = _models(args), _options(args)
        output = args.output or Path("traces") / time.strftime("run-%Y%m%d-%H%M%S")
        absent = _unfit(models, args)
        done, problems = _run_all(
            [m for m in models if m.name not in absent], options, args, output
        )
        absent |= problems
        if not done:
            reasons = [f"{name}: {reason}" for name, reason in absent.items()]
            raise IophaseError(reasons[0] if reasons else "run: stopped before the first model")
        troubles = {name: why for name, outcome in done.items() if (why := _trouble(outcome))}
        _report([output / name for name in done], absent, args.json)
        print(f"\ntraces: {output}/", file=sys.stderr if args.json else sys.stdout, flush=True)
        for name, problem in (problems | troubles).items():
            print(f"iophase: {name}: {problem}", file=sys.stderr)
        if args.strict and any(_lost(outcome) for outcome in done.values()):
            return LOST
        return FAILED if problems or troubles else 0


def _models(args: Namespace) -> list[Model]:
    from servers.models import MODELS, by_name

    if args.all == bool(args.models):
        raise IophaseError("run: name models, or give --all; 'iophase models' lists them", USAGE)
    if args.all:
        return list(MODELS)
    try:
        return [by_name(name) for name in dict.fromkeys(args.models)]
    except KeyError as error:
        raise IophaseError(f"{error.args[0]}; see 'iophase models'", USAGE) from None


def _unfit(models: list[Model], args: Namespace) -> dict[str, str]:
    """Return the models that cannot run here, or cannot take such a load, each with the reason."""
    clients = args.connections + args.idle
    reasons = {m.name: m.missing() or m.refuses(args.transport, clients) for m in models}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _run_all(
    models: list[Model], options: LoadOptions, args: Namespace, output: Path
) -> tuple[dict[str, Outcome], dict[str, str]]:
    """Return what came of the models, and the reasons of those that failed."""
    from tracer import privileges, progress
    from tracer.experiment import run_model
    from tracer.session import attached_program
    from tracer.stopping import stopping

    server_arguments = ["--work", str(args.work)] if args.work else []
    done: dict[str, Outcome] = {}
    problems: dict[str, str] = {}
    if not models:
        return done, problems
    with stopping() as wish, _network(args) as network, attached_program(args.backend) as program:
        privileges.drop()
        network.drop_privileges()
        for number, model in enumerate(models, 1):
            label = f"[{number}/{len(models)}] {model.name}"
            if wish.stop:
                progress.step(f"stopped before {', '.join(m.name for m in models[number - 1 :])}")
                break
            progress.begin(f"{label} ...")
            try:
                done[model.name] = run_model(
                    program,
                    model,
                    options,
                    output / model.name,
                    wish=wish,
                    label=label,
                    network=network,
                    transport=args.transport,
                    server_arguments=server_arguments,
                    force=args.force,
                )
                turns = None if args.transport == "udp" else model.connections
                progress.step(f"{label}: {_summary(done[model.name], turns)}")
                for note in done[model.name].result.notes:
                    progress.step(f"{label}: {note}")
            except IophaseError as error:
                if error.exit_code == USAGE:
                    raise
                problems[model.name] = str(error)
    return done, problems


def _summary(outcome: Outcome, places: int | None) -> str:
    """Say what came of it, and of clients that had to wait for one of so many places."""
    result, recorded = outcome.result, outcome.info.recorded
    calls = recorded["calls"] if recorded else 0
    said = f"{result.requests_per_s:,.0f} requests/s, {calls:,} calls"
    longest = result.latency_ns["max"]
    if places is None or places >= result.connections or longest is None:
        return said
    unserved = result.connections - result.connections_served
    never = f", {unserved} never" if unserved else ""
    return (
        f"{said}; {places} of {result.connections} clients at a time,"
        f" one waited {longest / 1e9:.2f} s{never}"
    )


def _options(args: Namespace) -> LoadOptions:
    """Return the load that the command line names; raise ``IophaseError`` if there is no such."""
    from servers.common import MAX_WORK_US
    from servers.load import options_of

    options = options_of(args, _DURATION_S)
    if not 0 <= args.work <= MAX_WORK_US:
        raise IophaseError(f"run: --work: 0 to {MAX_WORK_US} microseconds", USAGE)
    if (problem := options.problem(args.transport)) is not None:
        raise IophaseError(f"run: {problem}", USAGE)
    return options


def _add_network(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("network").add_argument
    add("--transport", choices=("tcp", "tcp6", "udp", "unix"), default="tcp",
        help="tcp6: TCP over IPv6; unix: stream sockets (default tcp)")  # fmt: skip
    add("--network", choices=("loopback", "veth"), default="loopback",
        help="veth: server and clients in namespaces of their own (default loopback)")  # fmt: skip
    add("--delay", type=float, metavar="MS", help="for each packet, on its way; needs netem")
    add("--loss", type=float, metavar="PERCENT", help="packets that vanish; needs netem")
    add("--bandwidth", type=float, metavar="MBIT", help="million bits/s; needs tbf")


def _network(args: Namespace) -> AbstractContextManager[Network]:
    """Return the network of the command line, made; raise ``IophaseError`` where that fails."""
    from contextlib import nullcontext

    from tracer.namespaces import Link
    from tracer.network import Loopback, Veth

    shaped = [f"--{name}" for name in _LINK if getattr(args, name) is not None]
    if args.network == "loopback":
        if shaped:
            raise IophaseError(f"run: {shaped[0]} needs --network veth", USAGE)
        return nullcontext(Loopback())
    if args.transport == "unix":
        raise IophaseError("run: --transport unix crosses no network: leave out --network", USAGE)
    link = Link(args.delay or 0.0, args.loss or 0.0, args.bandwidth)
    if (problem := link.problem()) is not None:
        raise IophaseError(f"run: {problem}", USAGE)
    return Veth(link)


def _report(directories: list[Path], absent: dict[str, str], as_json: bool) -> None:
    from analysis.report import report_json, report_text
    from servers.models import MODELS

    families = {model.name: model.family for model in MODELS}
    if as_json:
        print(report_json(directories, families=families, absent=absent))
        return
    colour = coloured()
    text = report_text(directories, families=families, absent=absent, colour=colour)
    print(text.rstrip("\n"))


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
