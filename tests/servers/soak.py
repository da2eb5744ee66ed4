"""Misbehave towards reference servers for a while, and watch their memory and descriptors.

    python -m tests.servers.soak [--seconds 60] [--jobs 6] [MODEL...]

Clients that reset in the middle of an answer, close half-way, send single bytes, send nothing,
take no answers, vanish without a word, come in crowds, or connect and leave at once; beside them a
good one, whose answers are checked.
"""

import argparse
import contextlib
import os
import random
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from servers.models import MODELS, Model, by_name
from tests.servers.client import Server, descriptors, payload, receive, reset, suffix

SECONDS = 60.0
JOBS = 6
BACKLOG = 5  # of the article's listen(5)
STAY = 4
CROWD = 3 * BACKLOG
CROWD_S = 0.2  # for the clients of a crowd to be accepted, if they ever are

TCP_REPAIR = 19  # tcp(7) leaves it out; a socket in repair is closed without FIN or RST
SMALL_BYTES = 4096

LEAST_ROUNDS = 2
AT_REST_S = 1.0  # for processes to be forked that do not have to answer yet
LOOK_S = 0.05
PATIENCE_S = 20.0  # for clients to be missed who have vanished: until the next window probe
# It takes a while until a server has the memory that it keeps for later: buffers that were all used
# once, pieces that the allocator holds back. After so many rounds a process may still grow so much,
# which is 400 bytes for each of its clients in the second half of a minute.
GROWN_ROUNDS = 20
GROWTH_KB = 1024


class Holdings(NamedTuple):
    """What a server and its processes hold."""

    memory_kb: int
    files: int
    processes: int


def at_rest(server: Server) -> Holdings:
    """Return what a server holds as soon as that does not change any more."""
    held: tuple[int, ...] = ()
    while (now := holdings(server))[1:] != held:
        held = now[1:]
        time.sleep(AT_REST_S)
    return now


def settled(server: Server, before: Holdings) -> Holdings:
    """Return what a server holds when it holds no more than before, or will not let go."""
    limit = time.monotonic() + PATIENCE_S
    while (now := holdings(server))[1:] != before[1:] and time.monotonic() < limit:
        time.sleep(LOOK_S)
    return now


def holdings(server: Server) -> Holdings:
    """Return what a server and its processes hold now."""
    pids = [server.process.pid, *server.descendants()]
    memory = files = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # it has just ended
            memory += resident_kb(pid)
            files += descriptors(pid)
    return Holdings(memory, files, len(pids))


def resident_kb(pid: int) -> int:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields["VmRSS"].split()[0]) if "VmRSS" in fields else 0


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
        with contextlib.suppress(OSError):
            for _ in range(200):
                connection.send(payload(100_000))


def vanish_in_the_middle(server: Server) -> None:
    """Be gone as by a power cut, with more of an answer on its way than was made room for."""
    with socket.socket(server.family, server.kind) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
        connection.connect(server.address)
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            connection.send(payload(300_000))
        connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)


def come_in_a_crowd(server: Server) -> None:
    """Be more clients at once than the listen queue holds, and leave before all are served."""
    crowd = [socket.socket(server.family, server.kind) for _ in range(CROWD)]
    for connection in crowd:
        connection.setblocking(False)
        connection.connect_ex(server.address)
    time.sleep(CROWD_S)
    for connection in crowd:
        with contextlib.suppress(OSError):
            connection.send(payload(64))
        connection.close()


MISDEEDS: tuple[Callable[[Server], None], ...] = (
    reset_in_the_middle,
    close_half_way,
    send_a_byte_at_a_time,
    leave_at_once,
    reset_at_once,
    take_no_answers,
    come_in_a_crowd,
    # Another user's sockets cannot be repaired: needs CAP_NET_ADMIN.
    *((vanish_in_the_middle,) if os.geteuid() == 0 else ()),
)


class Soak:
    """A server under clients that misbehave, between some that stay."""

    def __init__(self, server: Server, model: Model) -> None:
        self.server = server
        self.suffix = suffix(model)
        self.rounds = 0
        alone = model.connections == 1
        self.stay = [] if alone else [server.connect() for _ in range(STAY)]
        self.good = self.stay[0] if self.stay else None  # the others are silent from now on
        for connection in self.stay:
            self.is_answered(connection)  # so it has been accepted

    def is_answered(self, connection: socket.socket) -> bool:
        """Say whether a message is answered as it must be."""
        size = random.choice((1, 64, 5000))
        connection.sendall(payload(size))
        expected = payload(size).upper() + self.suffix
        return receive(connection, len(expected)) == expected

    def go_round(self) -> bool:
        """Do every misdeed once, in random order; say whether a good client is served after each.

        A server of one client at a time serves it only when all before it have gone.
        """
        for misdeed in random.sample(MISDEEDS, len(MISDEEDS)):
            misdeed(self.server)
            connection = self.good or self.server.connect()
            answered = self.is_answered(connection)
            if connection is not self.good:
                connection.close()
            if not answered:
                return False
        self.rounds += 1
        return True

    def close(self) -> None:
        """Let those go that stayed."""
        for connection in self.stay:
            connection.close()


def misbehave(model: Model, seconds: float) -> tuple[str, list[str]]:
    """Treat a server like that for so long, at the least twice; say how it went, and what broke."""
    with Server(model.module, "--backlog", str(BACKLOG)) as server:
        soak = Soak(server, model)
        before, start, good = at_rest(server), time.monotonic(), True
        while good and time.monotonic() < start + seconds / 2:
            good = soak.go_round()
        halfway, grown = settled(server, before), soak.rounds >= GROWN_ROUNDS
        while good and (soak.rounds < LEAST_ROUNDS or time.monotonic() < start + seconds):
            good = soak.go_round()
        after = settled(server, before)
        soak.close()
        troubles = [] if good else [f"a wrong answer in round {soak.rounds + 1}"]
        if after[1:] != before[1:]:
            troubles.append(f"from {before} to {after}")
        if grown and after.memory_kb > halfway.memory_kb + GROWTH_KB * after.processes:
            troubles.append(f"memory grows: {halfway}, and then {after}")
        server.stop()
        if server.errors:
            troubles.append(server.errors)
    memory = f"{before.memory_kb}, {halfway.memory_kb}, {after.memory_kb} kB"
    return f"{soak.rounds:4} rounds, {memory:24} {after[1:]}", troubles


def main() -> int:
    """Return 1 when a server did not stand it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="per model (%(default)s)")
    parser.add_argument("--jobs", type=int, default=JOBS, help="models at once (%(default)s)")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="all of them by default")
    arguments = parser.parse_args()
    models = [by_name(name) for name in arguments.models] or list(MODELS)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        failed = list(pool.map(lambda model: report(model, arguments.seconds), models))
    return any(failed)


def report(model: Model, seconds: float) -> bool:
    """Print how it went with a model; return whether anything broke."""
    if (reason := model.missing()) is not None:
        print(f"{model.name:20} skipped: {reason}", flush=True)
        return False
    try:
        summary, troubles = misbehave(model, seconds)
    except OSError as error:
        summary, troubles = "", [f"{type(error).__name__}: {error}"]
    print(f"{model.name:20} {summary}", flush=True)
    for trouble in troubles:
        print(f"{model.name:20} {trouble}", file=sys.stderr, flush=True)
    return bool(troubles)


if __name__ == "__main__":
    sys.exit(main())
