"""A reference server in a process of its own, and clients that talk to it over real sockets."""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from servers.models import Model

ROOT = Path(__file__).parents[2]
# Longer than anything a healthy server takes, shorter than the tests' patience.
PATIENCE_S = 20.0
AGAIN_S = 1.0


class Server:
    """A running reference server; `address` is where it listens."""

    def __init__(self, server: str | Path, *arguments: str, cwd: Path = ROOT) -> None:
        """Start it as a module by its name, or as a script by its path."""
        program = [str(server)] if isinstance(server, Path) else ["-m", server]
        self.process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            raise RuntimeError(f"{server}: {self.process.communicate()[1]}")
        self.listening_on = line.removeprefix("listening on ").strip()
        self.family = socket.AF_UNIX
        self.address: str | tuple[str, int] = self.listening_on.removeprefix("unix:")
        if self.address == self.listening_on:
            host, _, port = self.listening_on.removeprefix("udp:").rpartition(":")
            self.family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
            self.address = (host.strip("[]"), int(port))
        self.kind = (
            socket.SOCK_DGRAM if self.listening_on.startswith("udp:") else socket.SOCK_STREAM
        )
        self.errors = ""

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def connect(self) -> socket.socket:
        """Return a new connection to the server."""
        connection = socket.socket(self.family, self.kind)
        connection.settimeout(PATIENCE_S)
        connection.connect(self.address)
        return connection

    def descendants(self) -> set[int]:
        """Return the processes that the server has started."""
        found: set[int] = set()
        queue = [self.process.pid]
        while queue:
            pid = queue.pop()
            with contextlib.suppress(OSError):  # it has just ended
                for task in Path(f"/proc/{pid}/task").glob("*/children"):
                    queue += [int(child) for child in task.read_text().split()]
            found.add(pid)
        return found - {self.process.pid}

    def stop(self, number: signal.Signals = signal.SIGTERM) -> dict[str, int]:
        """End the server with a signal; return its counters, after checking that it exits 0."""
        # Again when it is late: a blocking call that Python enters at that very moment is not
        # interrupted, and only the next signal gets both handled.
        deadline = time.monotonic() + PATIENCE_S
        self.process.send_signal(number)
        while True:
            try:
                output, self.errors = self.process.communicate(timeout=AGAIN_S)
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline:
                    raise
                self.process.send_signal(number)
        assert self.process.returncode == 0, self.errors
        counters = json.loads(output.splitlines()[-1])
        assert isinstance(counters, dict)
        return counters


def alive(pid: int) -> bool:
    """Say whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Say whether a condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def suffix(model: Model) -> bytes:
    """Return what the model's server puts behind each answer; only the article's callbacks do."""
    return b"_SB" if model.name == "selectors" else b""


def receive(connection: socket.socket, size: int) -> bytes:
    """Return exactly `size` bytes, or what came before the end of the stream."""
    parts = []
    while size > 0 and (part := connection.recv(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def receive_all(connection: socket.socket) -> bytes:
    """Return everything up to the end of the stream."""
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def payload(size: int) -> bytes:
    """Return a message in which every byte's place can be told, in lower case."""
    return (b"abcdefghijklmnopqrstuvw" * (size // 23 + 1))[:size]


def reset(connection: socket.socket) -> None:
    """Close a connection by RST, tcp(7) and socket(7): SO_LINGER with a time of 0."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    """Hold a port on which nobody else can listen."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        yield holder.getsockname()[1]


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
