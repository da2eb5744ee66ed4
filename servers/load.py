"""The load generator: sends messages to an echo server and checks every reply.

    python -m servers.load 127.0.0.1:8080 --connections 10 --size 64 --duration 5

It runs in processes of its own (load_child.py); this module starts them, and adds up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from servers.load_options import (
    DEFAULT_DURATION_S,
    Address,
    LoadError,
    LoadOptions,
    parse_address,
)

__all__ = (
    "Connected",
    "Load",
    "LoadError",
    "LoadOptions",
    "Result",
    "add_options",
    "main",
    "options_of",
    "prepare_parser",
    "run_command",
    "run_load",
)

START_S = 30.0  # for a child to start and connect, before it counts as stuck
GRACE_S = 10.0  # for a child to end after its own time limits have passed
BUSY = 0.95  # share of a CPU from which on the generator may itself be what limits the rate


@dataclass(frozen=True)
class Connected:
    """How connecting went: connections that stand, those still trying, and what to know."""

    busy: int
    idle: int
    pending: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """What a load came to.

    messages: whole replies; verified: those of them that were right. errors: all failures;
    error_kinds: the same by kind, with "idle: ", "connecting: " or "between messages: " where no
    message was under way. unsent: messages that were due in an open loop, or asked for by number,
    and were not sent, as no connection became free until `timeout` seconds after the end, or all
    had failed; so verified + failed messages + unsent is the number asked for.
    connections: busy ones asked for; connections_made: all that came to stand;
    connections_served: busy ones that had a reply. idle_open: idle ones still open at the end.
    duration_s: from the start to the end of the period, or to the last reply if that is later;
    requests_per_s: messages / duration_s. latency_ns: from the sending, in an open loop from the
    intended sending, to the whole reply. cpu_s: CPU time the generator took. started_ns:
    CLOCK_MONOTONIC.
    """

    address: str
    connections: int
    idle: int
    size: int | list[int]
    rate: float | None
    duration_s: float
    messages: int
    bytes_sent: int
    bytes_received: int
    errors: int
    requests_per_s: float
    latency_ns: dict[str, int | None]
    verified: int
    error_kinds: dict[str, int] = field(default_factory=dict)
    connections_made: int = 0
    connections_served: int = 0
    idle_open: int = 0
    unsent: int = 0
    started_ns: int = 0
    cpu_s: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Tell whether anything went wrong."""
        return self.errors > 0 or self.messages == 0 or self.verified < self.messages

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON knows them."""
        return {**asdict(self), "notes": list(self.notes)}


class Load:
    """A load in the making: `connect`, then `run`, or `start` and, while it runs, `result`.

        with Load("127.0.0.1:8080", LoadOptions(messages=1009)) as load:
            load.prepare()           # its processes take a moment to start
            ...                      # attach what shall watch the server
            load.connect()
            result = load.run()

    Leaving the context kills what still runs. Every wait has an end. Raises LoadError.
    """

    def __init__(self, address: str | tuple[str, int], options: LoadOptions) -> None:
        text = address if isinstance(address, str) else f"{address[0]}:{address[1]}"
        self.address: Address = parse_address(text)
        self.options = options.checked(self.address)
        self.notes: tuple[str, ...] = ()
        self._children: list[subprocess.Popen[bytes]] = []
        self._deadline = 0.0
        self._prepared = False

    def __enter__(self) -> Load:
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        arguments = (self.address.label, json.dumps(asdict(self.options)))
        for index in range(self.options.processes):
            self._children.append(
                subprocess.Popen(
                    [sys.executable, "-m", "servers.load_child", *arguments, str(index)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": path},
                    process_group=0,
                )
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for child in self._children:
            child.kill()
        for child in self._children:
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        self._children = []

    @property
    def pids(self) -> list[int]:
        """Return the processes that make the load."""
        return [child.pid for child in self._children]

    def prepare(self) -> None:
        """Wait until the processes that make the load can begin; `connect` does so, too."""
        if not self._prepared:
            limit = time.monotonic() + START_S
            for child in self._children:
                self._hear(child, limit)
        self._prepared = True

    def connect(self) -> Connected:
        """Make all connections, and send nothing yet.

        Those that a server does not take up in time go on trying during the run (`pending`).
        """
        self.prepare()
        limit = time.monotonic() + START_S + (self.options.connections + self.options.idle) / 100
        for child in self._children:
            self._tell(child, do="connect")
        answers = [self._hear(child, limit) for child in self._children]
        self.notes = tuple(sorted({a["note"] for a in answers if a["note"]}))
        busy, idle, pending = (sum(a[k] for a in answers) for k in ("busy", "idle", "pending"))
        if pending:
            self.notes += (f"{pending} connections were not taken up by the server at the start",)
        if idle < self.options.idle:
            self.notes += (f"{self.options.idle - idle} idle connections could not be made",)
        return Connected(busy, idle, pending, self.notes)

    def start(self, at_ns: int | None = None) -> None:
        """Begin to send, now or at this moment of CLOCK_MONOTONIC; do not wait."""
        begin = time.monotonic_ns() if at_ns is None else at_ns
        options = self.options
        gap_ns = 0 if options.rate is None else int(options.burst / options.rate * 1e9)
        for index, child in enumerate(self._children):
            shift = gap_ns * index if options.arrivals == "constant" else 0
            self._tell(child, do="run", at_ns=begin + shift)
        wait_s = max(0.0, (begin - time.monotonic_ns()) / 1e9)
        self._deadline = float("inf")
        if options.duration is not None and options.rate is not None:
            drain_s = options.timeout * (options.connections + 2)
            self._deadline = time.monotonic() + wait_s + options.duration + drain_s + GRACE_S

    def stop(self) -> None:
        """End the period early; `result` returns what there is."""
        for child in self._children:
            self._tell(child, do="stop")

    def done(self, timeout_s: float = 0.0) -> bool:
        """Tell whether the load has ended, after at most this long."""
        limit = time.monotonic() + timeout_s
        for child in self._children:
            assert child.stdout is not None
            wait = max(0.0, limit - time.monotonic())
            if not select.select([child.stdout], [], [], wait)[0]:
                return False
        return True

    def result(self) -> Result:
        """Wait for the end, and return what came of it."""
        tallies = [self._hear(child, self._deadline) for child in self._children]
        return self._add_up(tallies)

    def run(self, at_ns: int | None = None) -> Result:
        """Make the load from now or from this moment on, and return what came of it."""
        self.start(at_ns)
        return self.result()

    def _add_up(self, tallies: Sequence[dict[str, Any]]) -> Result:
        from servers.load_latency import Latencies

        latencies = Latencies()
        errors: Counter[str] = Counter()
        for tally in tallies:
            latencies.merge(tally["latencies"])
            errors.update(tally["errors"])

        def total(name: str) -> Any:
            return sum(tally[name] for tally in tallies)

        started = min(tally["started_ns"] for tally in tallies)
        seconds = max(0, max(tally["stopped_ns"] for tally in tallies) - started) / 1e9
        options = self.options
        sizes = list(options.sizes)
        notes = self.notes
        if seconds and max(tally["cpu_s"] for tally in tallies) > BUSY * seconds:
            notes += ("the generator had no CPU time left: --processes may raise the rate",)
        return Result(
            address=self.address.label,
            connections=options.connections,
            idle=options.idle,
            size=sizes[0] if len(sizes) == 1 else sizes,
            rate=options.rate,
            duration_s=seconds,
            messages=total("messages"),
            bytes_sent=total("bytes_sent"),
            bytes_received=total("bytes_received"),
            errors=errors.total(),
            requests_per_s=total("messages") / seconds if seconds else 0.0,
            latency_ns=latencies.summary(),
            verified=total("verified"),
            error_kinds={kind: n for kind, n in errors.most_common() if n},
            connections_made=total("connections_made"),
            connections_served=total("connections_served"),
            idle_open=total("idle_open"),
            unsent=total("unsent"),
            started_ns=started,
            cpu_s=round(total("cpu_s"), 6),
            notes=notes,
        )

    def _tell(self, child: subprocess.Popen[bytes], **order: object) -> None:
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: what it said is heard later
            child.stdin.write(json.dumps(order).encode() + b"\n")
            child.stdin.flush()

    def _hear(self, child: subprocess.Popen[bytes], limit: float) -> dict[str, Any]:
        """Return the child's next line; raise LoadError if there is none."""
        assert child.stdout is not None
        while not select.select([child.stdout], [], [], 1.0)[0]:
            if time.monotonic() > limit:
                raise LoadError(f"load on {self.address.label}: process {child.pid} is stuck")
        line = child.stdout.readline()
        if not line.endswith(b"\n"):
            code = child.wait()
            raise LoadError(
                f"load on {self.address.label}: its process ended with code {code}; "
                "see its messages above"
            )
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise LoadError(answer["failed"])
        return answer


def run_load(address: str | tuple[str, int], options: LoadOptions) -> Result:
    """Connect, make the load, and return what came of it; raise LoadError."""
    with Load(address, options) as load:
        load.connect()
        return load.run()


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the load's arguments, and where it goes."""
    parser.add_argument(
        "address", metavar="HOST:PORT", help="also udp:HOST:PORT, unix:PATH, [::1]:PORT"
    )
    add_options(parser)
    parser.add_argument(
        "--suffix", default="", metavar="TEXT", help="what the server adds to each reply"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_options(parser: argparse._ActionsContainer, duration_s: float = DEFAULT_DURATION_S) -> None:
    """Add the arguments of which `options_of` makes a load; `duration_s` is for the help alone."""
    defaults = LoadOptions()
    add = parser.add_argument
    add("-c", "--connections", type=int, default=defaults.connections, metavar="N",
        help="busy connections, one message each under way (default %(default)s)")  # fmt: skip
    add("--idle", type=int, default=0, metavar="N", help="silent connections beside them")
    add("--size", type=_sizes, default=defaults.sizes, metavar="B[,B...]",
        help="bytes of a message; of several sizes, drawn at random (default 64)")  # fmt: skip
    add("--rate", type=float, metavar="R",
        help="messages/s, open loop: latency counts from the intended time (default: closed "
        "loop, the next message follows the reply)")  # fmt: skip
    add("--poisson", action="store_true", help="with --rate: random arrivals")
    add("--burst", type=int, default=1, metavar="K", help="with --rate: K messages at an instant")
    add("-d", "--duration", type=float, metavar="S",
        help=f"seconds of load (default {duration_s:g})")  # fmt: skip
    add("--messages", type=int, metavar="N", help="end after exactly N messages")
    add("--per-request", action="store_true", help="a new connection for each message")
    add("--byte-gap", type=int, metavar="MICROSECONDS",
        help="send a byte at a time, with this pause")  # fmt: skip
    add("--timeout", type=float, default=defaults.timeout, metavar="S",
        help="seconds without a reply after which waiting ends (default %(default)s)")  # fmt: skip
    add("--processes", type=int, default=1, metavar="N",
        help="processes that share the sending (default 1)")  # fmt: skip


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not B or B,B,...") from None


def options_of(
    args: argparse.Namespace, duration_s: float = DEFAULT_DURATION_S, suffix: str = ""
) -> LoadOptions:
    """Return the load that the command line named; without an end it takes `duration_s`."""
    duration = args.duration
    if duration is None and args.messages is None:
        duration = duration_s
    return LoadOptions(
        connections=args.connections,
        idle=args.idle,
        sizes=args.size,
        rate=args.rate,
        arrivals="poisson" if args.poisson else "constant",
        burst=args.burst,
        duration=duration,
        messages=args.messages,
        per_request=args.per_request,
        byte_gap_us=args.byte_gap,
        suffix=suffix,
        timeout=args.timeout,
        processes=args.processes,
    )


def describe(result: Result) -> str:
    """Return the result as text for people."""

    def ms(name: str) -> str:
        value = result.latency_ns[name]
        return "-" if value is None else f"{value / 1e6:.3f}"

    lines = [
        f"{result.messages} messages in {result.duration_s:.3f} s: "
        f"{result.requests_per_s:.0f} requests/s, {result.verified} replies verified",
        f"{result.connections_made} connections made, {result.connections_served} of "
        f"{result.connections} served; {result.idle_open} of {result.idle} idle ones open at the "
        "end",
        "latency ms: "
        + "  ".join(f"{n} {ms(n)}" for n in ("p50", "p90", "p99", "p99_9", "max", "mean")),
        f"{result.bytes_sent} bytes sent, {result.bytes_received} received, "
        f"{result.cpu_s:.2f} s of CPU",
    ]
    if result.unsent:
        lines.append(f"{result.unsent} messages were not sent: no connection was free or left")
    lines += [f"error: {kind}: {n}" for kind, n in result.error_kinds.items()]
    return "\n".join([*lines, *(f"note: {note}" for note in result.notes)])


def run_command(args: argparse.Namespace) -> int:
    """Make the load of the command line and print what came of it; return the exit code."""
    with Load(args.address, options_of(args, suffix=args.suffix)) as load:
        load.connect()
        load.start()
        try:
            while not load.done(1.0):
                pass
        except KeyboardInterrupt:
            load.stop()
        result = load.result()
    print(json.dumps(result.to_json()) if args.json else describe(result))
    return 1 if result.failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 if anything failed, 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m servers.load",
        description="Send messages to an upper-case echo server and check every reply.",
        epilog="example: python -m servers.load 127.0.0.1:8080 -c 10 --idle 1000 --rate 5000",
    )
    prepare_parser(parser)
    try:
        return run_command(parser.parse_args(argv))
    except LoadError as error:
        print(f"load: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
