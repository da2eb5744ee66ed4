"""Misbehave towards reference servers for a while, and watch their memory and descriptors.

    python -m tests.servers.soak [--seconds 60] [MODEL...]

Clients that reset in the middle of an answer, close half-way, send single bytes, send nothing,
take no answers, or connect and leave at once; beside them a good one, whose answers are checked.
"""

import argparse
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from servers.models import MODELS, Model, by_name
from tests.servers.client import Server, descriptors, payload, receive, reset, suffix, within

SECONDS = 60.0
# What a server may come to hold after the first tenth of the time without being said to leak: the
# buffers of io_uring-multishot take 4 MiB, and 1 MiB of answers may wait for each of its clients.
GROWTH_KB = 16 * 1024


def resident_kb(pid: int) -> int:
    """Return the resident memory of a process."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return int(fields["VmRSS"].split()[0])


def reset_in_the_middle(server: Server) -> None:
    connection = server.connect()
    connection.sendall(payload(random.randrange(1, 300_000)))
    reset(connection)


def close_half_way(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(payload(1000))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass


def send_a_byte_at_a_time(server: Server) -> None:
    with server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(20):
            connection.send(payload(20)[place : place + 1])
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass


def leave_at_once(server: Server) -> None:
    server.connect().close()


def reset_at_once(server: Server) -> None:
    reset(server.connect())


def take_no_answers(server: Server) -> None:
    with server.connect() as connection:
        connection.setblocking(False)
        try:
            for _ in range(200):
                connection.send(payload(100_000))
        except OSError:
            pass


MISDEEDS: tuple[Callable[[Server], None], ...] = (
    reset_in_the_middle,
    close_half_way,
    send_a_byte_at_a_time,
    leave_at_once,
    reset_at_once,
    take_no_answers,
)


def misbehave(model: Model, seconds: float) -> Iterator[str]:
    """Yield what is wrong with a server that has been treated like that."""
    with Server(model.module) as server:
        alone = model.connections == 1
        silent = [] if alone else [server.connect() for _ in range(3)]
        good = None if alone else server.connect()
        pid, rounds, start = server.process.pid, 0, time.monotonic()
        memory = files = 0
        while (elapsed := time.monotonic() - start) < seconds:
            random.choice(MISDEEDS)(server)
            connection = good or server.connect()
            size = random.choice((1, 64, 5000))
            connection.sendall(payload(size))
            answer = receive(connection, size + len(suffix(model)))
            if answer != payload(size).upper() + suffix(model):
                yield f"a wrong answer after {elapsed:.1f} s"
                return
            if connection is not good:
                connection.close()
            rounds += 1
            if not memory and elapsed > seconds / 10:
                memory, files = resident_kb(pid), descriptors(pid)
        settled = within(5, lambda: descriptors(pid) <= files)
        grown = resident_kb(pid) - memory
        if not settled:
            yield f"descriptors grew from {files} to {descriptors(pid)}"
        if grown > GROWTH_KB:
            yield f"memory grew by {grown} kB"
        print(f"{model.name:20} {rounds:7} rounds {grown:+6} kB", flush=True)
        for connection in (*silent, *([good] if good else [])):
            connection.close()
        server.stop()
        if server.errors:
            yield server.errors


def main() -> int:
    """Return 1 when a server did not stand it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="per model (%(default)s)")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="all of them by default")
    arguments = parser.parse_args()
    failed = False
    for model in map(by_name, arguments.models) if arguments.models else MODELS:
        if (reason := model.missing()) is not None:
            print(f"{model.name:20} skipped: {reason}")
            continue
        for trouble in misbehave(model, arguments.seconds):
            failed = True
            print(f"{model.name:20} {trouble}", file=sys.stderr, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
