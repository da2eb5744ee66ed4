"""The I/O models, each with its reference server: names, families, and what a host needs for it."""

import importlib
from typing import NamedTuple

__all__ = ("FAMILIES", "MODELS", "Model", "by_name")

# Why a model serves no UDP.
PER_CLIENT = "no UDP: a thread, process or turn belongs to a client, and UDP has no connections"
NO_SENDER = "no UDP: its receive does not tell who sent the datagram"


class Model(NamedTuple):
    """An I/O model and the module of its server.

    `waits_in` and `copies_in` name the calls in which the server waits for data and gets it copied.
    `needs` says what not every host has; `connections` is how many clients it serves at once
    (None: as many as it has descriptors), and `beyond` why it turns further ones away (empty: they
    wait for their turn). All serve TCP and unix stream sockets; `no_udp` says why not UDP as well.
    """

    name: str
    family: str
    module: str
    summary: str
    waits_in: str
    copies_in: str
    needs: str = ""
    connections: int | None = None
    beyond: str = ""
    no_udp: str = ""

    @property
    def udp(self) -> bool:
        """Say whether it serves UDP."""
        return not self.no_udp

    def missing(self) -> str | None:
        """Say what this host lacks for the model, such as "needs Linux 6.0"; None if nothing."""
        check = getattr(importlib.import_module(self.module), "missing", None)
        return None if check is None else check()

    def refuses(self, transport: str, clients: int) -> str | None:
        """Say why the model cannot take so many clients over `transport`; None if it can."""
        if transport == "udp":  # one socket for all of them
            return self.no_udp or None
        if self.beyond and self.connections is not None and clients > self.connections:
            return f"{clients} clients, and {self.connections} fit: {self.beyond}"
        return None


def _model(
    name: str,
    family: str,
    summary: str,
    waits_in: str,
    copies_in: str,
    needs: str = "",
    connections: int | None = None,
    beyond: str = "",
    no_udp: str = "",
) -> Model:
    module = f"servers.{name.replace('-', '_')}_server"
    return Model(
        name, family, module, summary, waits_in, copies_in, needs, connections, beyond, no_udp
    )


MODELS = (
    _model(
        "blocking",
        "blocking",
        "one connection after the other",
        "recv",
        "recv",
        connections=1,
    ),
    _model(
        "threads",
        "blocking",
        "a thread for every connection",
        "recv",
        "recv",
        no_udp=PER_CLIENT,
    ),
    _model(
        "processes",
        "blocking",
        "a process for every connection",
        "recv",
        "recv",
        no_udp=PER_CLIENT,
    ),
    _model(
        "thread-pool",
        "blocking",
        "16 threads; further clients wait in a queue",
        "recv",
        "recv",
        connections=16,
        no_udp=PER_CLIENT,
    ),
    _model(
        "process-pool",
        "blocking",
        "16 processes; further clients wait unaccepted",
        "recv",
        "recv",
        connections=16,
        no_udp=PER_CLIENT,
    ),
    _model(
        "nonblocking",
        "non-blocking",
        "asks every socket in turn, burning a CPU",
        "recv (EAGAIN)",
        "recv",
    ),
    _model(
        "nonblocking-nap",
        "non-blocking",
        "the same, with a nap of 1 ms between rounds",
        "sleep",
        "recv",
    ),
    _model(
        "select",
        "multiplexing",
        "one call waits for up to 1024 descriptors",
        "select",
        "recv",
        connections=1020,
        beyond="an fd_set ends at descriptor 1023 (FD_SETSIZE); poll and epoll have no such limit",
    ),
    _model(
        "poll",
        "multiplexing",
        "select without its limit",
        "poll",
        "recv",
    ),
    _model(
        "epoll",
        "multiplexing",
        "the kernel keeps the set; level-triggered",
        "epoll_wait",
        "recv",
    ),
    _model(
        "epoll-et",
        "multiplexing",
        "edge-triggered: told once, drained to EAGAIN",
        "epoll_wait",
        "recv",
    ),
    _model(
        "epoll-oneshot",
        "multiplexing",
        "worker threads on one set, a client to one",
        "epoll_wait",
        "recv",
        no_udp=PER_CLIENT,
    ),
    _model(
        "selectors",
        "multiplexing",
        "the article's callbacks, answering with _SB",
        "epoll_wait",
        "recv",
    ),
    _model(
        "sigio",
        "signal-driven",
        "a handler gets queued real-time signals",
        "sigsuspend",
        "recv",
    ),
    _model(
        "sigtimedwait",
        "signal-driven",
        "the same signals, taken one by one",
        "rt_sigtimedwait",
        "recv",
    ),
    _model(
        "posix-aio",
        "asynchronous",
        "glibc's helper threads; completion by signal",
        "read (helper)",
        "read (helper)",
        needs="glibc",
        no_udp=NO_SENDER,
    ),
    _model(
        "native-aio",
        "asynchronous",
        "io_submit of a read, which blocks",
        "io_submit",
        "io_submit",
        needs="CONFIG_AIO",
        connections=1,
        no_udp=NO_SENDER,
    ),
    _model(
        "native-aio-poll",
        "asynchronous",
        "io_submit of a poll; then recv",
        "io_getevents",
        "recv",
        needs="CONFIG_AIO",
    ),
    _model(
        "io_uring",
        "asynchronous",
        "a receive under way for every client",
        "io_uring_enter",
        "io_uring_enter",
        needs="Linux 5.7",
    ),
    _model(
        "io_uring-poll",
        "asynchronous",
        "a poll under way for every client; then recv",
        "io_uring_enter",
        "recv",
        needs="Linux 5.7",
    ),
    _model(
        "io_uring-multishot",
        "asynchronous",
        "one receive for all messages, common buffers",
        "io_uring_enter",
        "io_uring_enter",
        needs="Linux 6.0",
        no_udp=NO_SENDER,
    ),
    _model(
        "io_uring-workers",
        "asynchronous",
        "worker threads of the kernel receive",
        "io_uring_enter",
        "iou-wrk",
        needs="Linux 6.3",
    ),
    _model(
        "io_uring-sqpoll",
        "asynchronous",
        "a kernel thread polls for requests",
        "io_uring_enter",
        "iou-sqp",
        needs="Linux 5.11",
    ),
    _model(
        "asyncio",
        "event loops",
        "Python's own loop, on epoll",
        "epoll_wait",
        "recv",
    ),
    _model(
        "uvloop",
        "event loops",
        "asyncio on libuv",
        "epoll_pwait",
        "read",
        needs="uvloop",
    ),
    _model(
        "gevent",
        "event loops",
        "coroutines that look blocking, on libev",
        "epoll_wait",
        "recv",
        needs="gevent",
    ),
)

FAMILIES = tuple(dict.fromkeys(model.family for model in MODELS))


def by_name(name: str) -> Model:
    """Return the model of this name; KeyError names those there are."""
    for model in MODELS:
        if model.name == name:
            return model
    raise KeyError(f"no I/O model {name!r}; there are {', '.join(m.name for m in MODELS)}")
