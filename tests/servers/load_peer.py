"""A peer for the load generator's tests: an upper-case echo that misbehaves where it is told to."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

__all__ = ("echo", "peer", "reset", "stall")

Handler = Callable[[socket.socket, bytes, int], None]


def echo(connection: socket.socket, data: bytes, _: int) -> None:
    """Answer in upper case."""
    connection.sendall(data.upper())


def reset(connection: socket.socket) -> None:
    """Close the connection with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def stall(after: int, seconds: float) -> Handler:
    """Return a handler that echoes, and stops the whole server once, at this receive."""

    def handle(connection: socket.socket, data: bytes, count: int) -> None:
        if count == after:
            time.sleep(seconds)
        echo(connection, data, count)

    return handle


@contextlib.contextmanager
def peer(
    handle: Handler = echo,
    family: socket.AddressFamily = socket.AF_INET,
    path: str = "",
    greet: Callable[[socket.socket], None] | None = None,
) -> Iterator[str]:
    """Serve TCP or unix connections in one thread; yield the address as the generator takes it.

    `handle` gets connection, data and how many receives there were before; `greet` gets each new
    connection.
    """
    hosts = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind((hosts[family], 0) if family in hosts else path)
    listener.listen(1024)
    name = listener.getsockname()
    label = f"unix:{name}" if family == socket.AF_UNIX else f"{name[0]}:{name[1]}"
    ending = threading.Event()
    thread = threading.Thread(target=_serve, args=(listener, handle, greet, ending))
    thread.start()
    try:
        yield label if family != socket.AF_INET6 else f"[{name[0]}]:{name[1]}"
    finally:
        ending.set()
        thread.join()
        listener.close()


def _serve(
    listener: socket.socket,
    handle: Handler,
    greet: Callable[[socket.socket], None] | None,
    ending: threading.Event,
) -> None:
    connections: set[socket.socket] = set()
    count = 0
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while not ending.is_set():
            for key, _ in selector.select(0.05):
                if key.fileobj is listener:
                    for connection in _waiting(listener):
                        connections.add(connection)
                        selector.register(connection, selectors.EVENT_READ)
                        if greet is not None:
                            greet(connection)
                            if connection.fileno() < 0:
                                selector.unregister(connection)
                    continue
                connection = key.fileobj  # type: ignore[assignment]
                data = b""
                with contextlib.suppress(OSError):
                    data = connection.recv(1 << 20)
                if data:
                    with contextlib.suppress(OSError):
                        handle(connection, data, count)
                    count += 1
                if not data or connection.fileno() < 0:
                    selector.unregister(connection)
                    connection.close()
        for connection in connections:
            connection.close()


def _waiting(listener: socket.socket) -> Iterator[socket.socket]:
    """Yield every connection that waits to be accepted: none is behind its own messages."""
    listener.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            yield listener.accept()[0]
