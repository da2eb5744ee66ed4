"""What all reference servers share: arguments, the listening socket, signals, counters, the answer.

How a server waits for data and takes it is its own and stands in its own file.
"""

import argparse
import contextlib
import errno
import functools
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

__all__ = (
    "NOT_SUPPORTED",
    "STOPPING",
    "Echo",
    "Option",
    "Stopped",
    "answer_datagram",
    "raise_stopped",
    "run",
    "send_some",
    "wait_until_stopped",
)

# Takes most messages in one receive; the article's 1024 is `--buffer 1024`.
BUFFER_BYTES = 64 * 1024
# As many waiting connections as the kernel allows, so that a thousand clients connecting at once
# are not held up by SYN retries; the article's listen(5) is `--backlog 5`.
BACKLOG = socket.SOMAXCONN
# Python loop rounds between two looks at the CPU clock: about 4 us, against 0.2 us for the look.
BURN_ROUNDS = 250

MAX_BACKLOG = 2**31 - 1  # an int; the kernel takes net.core.somaxconn for what is more
MAX_BUFFER_BYTES = 64 << 20  # the load generator's longest message; each receive allocates it
MAX_WORK_US = 60_000_000  # of each message: long before, a client has given up
MAX_SECONDS = 86_400.0  # of an option; a sleep of centuries is an error to the C library

STOPPING = (signal.SIGTERM, signal.SIGINT)

FAILED = 1
USAGE = 2
NOT_SUPPORTED = 5


class Stopped(SystemExit):
    """SIGTERM or SIGINT arrived: the server is to end."""


class Option(NamedTuple):
    """A further argument of one server, handed to its serve function by keyword.

    A positive number: an integer, or seconds if the default is no integer.
    """

    name: str
    default: float
    help: str


class Echo:
    """What a server does with a message: count it, work on it, answer in upper case."""

    def __init__(
        self, buffer: int = BUFFER_BYTES, work_us: int = 0, backlog: int = BACKLOG
    ) -> None:
        self.buffer = buffer
        self.backlog = backlog
        self.connections = 0
        self.messages = 0
        self.bytes_received = 0
        self.more_counters: dict[str, int] = {}
        self.final_counters: dict[str, Callable[[], int]] = {}  # asked for at the end
        self._work_ns = work_us * 1000
        self._lock = threading.Lock()

    def reply(self, data: bytes) -> bytes:
        """Return the answer to what one receive returned; the end of the stream has none."""
        if data:
            with self._lock:
                self.messages += 1
                self.bytes_received += len(data)
            if self._work_ns:
                burn(self._work_ns)
        return data.upper()

    def counters(self) -> dict[str, int]:
        """Return what was counted; `messages` are receives that returned data."""
        return {
            "connections": self.connections,
            "messages": self.messages,
            "bytes_received": self.bytes_received,
            **self.more_counters,
            **{name: ask() for name, ask in self.final_counters.items()},
        }


def burn(nanoseconds: int) -> None:
    """Keep the CPU busy for this much CPU time of the calling thread."""
    end = time.thread_time_ns() + nanoseconds
    while time.thread_time_ns() < end:
        for _ in range(BURN_ROUNDS):
            pass


def send_some(connection: socket.socket, reply: bytes) -> bytes:
    """Send what a non-blocking socket takes now, and return the rest."""
    try:
        return reply[connection.send(reply) :]
    except BlockingIOError:
        return reply


def answer_datagram(receiver: socket.socket, echo: Echo) -> None:
    """Receive one datagram, and answer it; an answer for which there is no room is lost, udp(7)."""
    data, client = receiver.recvfrom(echo.buffer)
    with contextlib.suppress(OSError):
        receiver.sendto(echo.reply(data), client)


def raise_stopped(number: int, frame: FrameType | None) -> NoReturn:
    """Handle SIGTERM and SIGINT: leave whatever call the server waits in, once."""
    for stopping in STOPPING:
        signal.signal(stopping, signal.SIG_IGN)
    raise Stopped


def run(
    serve: Callable[..., None],
    documentation: str | None,
    *options: Option,
    threads: bool = False,
    datagrams: Callable[..., None] | None = None,
    missing: Callable[[], str | None] | None = None,
) -> NoReturn:
    """Run a server as a program: `serve(listener, echo, **options)` until SIGTERM or SIGINT.

    Prints `listening on ADDRESS`, and at the end one line of JSON with the server's counters.
    `threads` says that it starts threads; `datagrams` serves in its place with --udp; `missing`
    says what this host lacks for the model: then the exit code is NOT_SUPPORTED.
    """
    arguments = vars(_parser(documentation, options, datagrams is not None).parse_args())
    host, port = arguments.pop("host"), arguments.pop("port")
    path, udp = arguments.pop("unix"), arguments.pop("udp", False)
    echo = Echo(arguments.pop("buffer"), arguments.pop("work"), arguments.pop("backlog"))
    if missing is not None and (reason := missing()) is not None:
        _fail(reason, NOT_SUPPORTED)
    _raise_descriptor_limit()
    try:
        listener = _bind_unix(path) if path else _bind(host, port, udp)
        if not udp:
            listener.listen(echo.backlog)
    except (OSError, UnicodeError) as error:  # a name may be none of a host, or too long
        reason = getattr(error, "strerror", None) or str(error)
        if path:
            _fail(f"cannot listen on {path}: {reason}; give another --unix path", FAILED)
        _fail(
            f"cannot listen on {host}:{port}: {reason}; "
            "give another --host or --port (0 takes a free port)",
            FAILED,
        )
    for number in STOPPING:
        signal.signal(number, raise_stopped)
    try:
        print(f"listening on {_name(listener)}", flush=True)
        serve = functools.partial(datagrams if datagrams and udp else serve, listener, echo)
        if threads:
            _run_in_thread(functools.partial(serve, **arguments))
        else:
            serve(**arguments)
    except Stopped:
        pass
    except OSError as error:
        advice = "; raise the limit, ulimit -n" if error.errno == errno.EMFILE else ""
        _fail(f"{error.strerror}{advice}; served: {json.dumps(echo.counters())}", FAILED)
    except RuntimeError as error:  # no further thread can be started
        _fail(f"{error}; served: {json.dumps(echo.counters())}", FAILED)
    finally:
        if path and not path.startswith("@"):
            Path(path).unlink(missing_ok=True)
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(echo.counters()), flush=True)
    os._exit(0)  # takes along threads that still wait in a receive


def wait_until_stopped() -> NoReturn:
    """Wait for SIGTERM or SIGINT, and raise Stopped."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    signal.sigwait(STOPPING)
    raise Stopped


def _run_in_thread(serve: Callable[[], None]) -> None:
    """Run a server with threads beside the main thread, which waits for signals alone.

    Python handles signals in the main thread. Had it to accept() there, a signal that comes while
    another thread holds Python's lock, just before accept(), would be seen only after it.
    """
    failures: list[Exception] = []

    def run_and_report() -> None:
        try:
            serve()
        except (OSError, RuntimeError) as error:
            failures.append(error)
            os.kill(os.getpid(), signal.SIGTERM)

    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # threads inherit it
    threading.Thread(target=run_and_report, daemon=True).start()
    try:
        wait_until_stopped()
    finally:
        if failures:
            raise failures[0]


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line that says where the help is."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def _parser(
    documentation: str | None, options: tuple[Option, ...], datagrams: bool
) -> argparse.ArgumentParser:
    parser = _Parser(
        description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--port", type=_number(0, 65_535), default=0, help="port to listen on (0: a free one)"
    )
    parser.add_argument(
        "--unix", metavar="PATH", help="listen on a unix stream socket instead (@NAME: abstract)"
    )
    if datagrams:
        parser.add_argument("--udp", action="store_true", help="serve UDP instead of TCP")
    parser.add_argument(
        "--buffer",
        type=_number(1, MAX_BUFFER_BYTES),
        default=BUFFER_BYTES,
        metavar="BYTES",
        help="size of one receive (%(default)s)",
    )
    parser.add_argument(
        "--work",
        type=_number(0, MAX_WORK_US),
        default=0,
        metavar="MICROSECONDS",
        help="CPU time to burn on every message (%(default)s)",
    )
    parser.add_argument(
        "--backlog",
        type=_number(0, MAX_BACKLOG),
        default=BACKLOG,
        help="argument of listen() (%(default)s)",
    )
    for option in options:
        parser.add_argument(
            option.name,
            type=_number(1) if isinstance(option.default, int) else _seconds,
            default=option.default,
            metavar="N",
            help=f"{option.help} (%(default)s)",
        )
    return parser


def _number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return what parses an argument that is a whole number from `least` to `most`."""
    bounds = f"at least {least}" if most is None else f"{least} to {most}"

    def parsed(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            raise argparse.ArgumentTypeError(f"{text} is not a number, {bounds}")
        return int(text)

    return parsed


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text} is not a number of seconds above 0 and at most {MAX_SECONDS:g}"
        )
    return number


def _bind(host: str, port: int, udp: bool) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host,
        port,
        type=socket.SOCK_DGRAM if udp else socket.SOCK_STREAM,
        flags=socket.AI_PASSIVE,
    )[0]
    bound = socket.socket(family, kind, protocol)
    if not udp:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it: the answer to a large message leaves in several sends, and the
        # last must not wait for the client's delayed acknowledgement, tcp(7).
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bound.bind(address)
    return bound


def _bind_unix(path: str) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind("\0" + path[1:] if path.startswith("@") else path)
    return bound


def _name(bound: socket.socket) -> str:
    """Return the address as the load generator takes it."""
    if bound.family == socket.AF_UNIX:
        return "unix:" + os.fsdecode(bound.getsockname()).replace("\0", "@")
    host, port = bound.getsockname()[:2]
    host = f"[{host}]" if bound.family == socket.AF_INET6 else host
    return f"udp:{host}:{port}" if bound.type == socket.SOCK_DGRAM else f"{host}:{port}"


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _fail(message: str, code: int) -> NoReturn:
    print(f"{Path(sys.argv[0]).stem}: {message}", file=sys.stderr, flush=True)
    os._exit(code)
