"""gevent: code that looks blocking, in coroutines that take turns on an event loop (libev).

Waits in   epoll_wait() inside libev, while every coroutine waits in what looks like recv().
Copies in  recv(), non-blocking: first it asks, and gets EAGAIN; when libev has reported the
           descriptor it asks again, and gets the data.
Blocked    the process, in epoll_wait(); and all other clients while a coroutine runs.

epoll_wait(2), accept(2), recv(2), send(2)
"""

import importlib.util
import socket

from servers.common import Echo, answer_datagram, run


def serve(listener: socket.socket, echo: Echo) -> None:
    """Start a coroutine for each client."""
    import gevent
    import gevent.socket

    def serve_client(connection: gevent.socket.socket) -> None:
        with connection:
            try:
                while reply := echo.reply(connection.recv(echo.buffer)):
                    connection.sendall(reply)
            except OSError:
                pass  # the client has reset the connection

    cooperative = gevent.socket.socket(fileno=listener.detach())
    while True:
        connection, _ = cooperative.accept()
        echo.connections += 1
        gevent.spawn(serve_client, connection)


def serve_datagrams(receiver: socket.socket, echo: Echo) -> None:
    """Answer one datagram after the other, whoever sends it."""
    import gevent.socket

    cooperative = gevent.socket.socket(fileno=receiver.detach())
    while True:
        answer_datagram(cooperative, echo)


def missing() -> str | None:
    """Say what this host lacks for the model."""
    return None if importlib.util.find_spec("gevent") else "needs the Python package gevent"


if __name__ == "__main__":
    run(serve, __doc__, datagrams=serve_datagrams, missing=missing)
