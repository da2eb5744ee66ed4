"""Native AIO asking for readiness (IOCB_CMD_POLL): epoll's work, by requests.

Waits in   io_getevents(), for the completion of a poll request.
Copies in  the recv() that follows, which does not wait.
Blocked    the process, in io_getevents(), not in recv(). A request is good for one report: each
           descriptor is submitted again afterwards.

io_submit(2), io_getevents(2), poll(2), accept(2), recv(2), send(2)
"""

import contextlib
import select
import socket

from servers.aio import POLL, Context, missing
from servers.common import Echo, answer_datagram, run, send_some

REQUESTS = 8192  # one per client at most; fs.aio-max-nr is 65536 for all programs together


def serve(listener: socket.socket, echo: Echo) -> None:
    """Wait until any client can be answered, and answer all that can."""
    context = Context(REQUESTS)
    listener.setblocking(False)
    context.submit(POLL, listener.fileno(), select.POLLIN)
    connections: dict[int, socket.socket] = {}
    unsent: dict[int, bytes] = {}  # answers that did not fit into the send buffer

    while True:
        for fd, _ in context.events():
            if fd == listener.fileno():
                context.submit(POLL, fd, select.POLLIN)
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    continue  # the client has gone again
                connection.setblocking(False)
                connections[connection.fileno()] = connection
                context.submit(POLL, connection.fileno(), select.POLLIN)
                echo.connections += 1
                continue

            connection = connections[fd]
            try:
                reply = unsent.pop(fd, b"") or echo.reply(connection.recv(echo.buffer))
                rest = send_some(connection, reply) if reply else b""
            except BlockingIOError:
                context.submit(POLL, fd, select.POLLIN)  # not ready after all: select(2), BUGS
                continue
            except OSError:  # the client has reset the connection
                reply = b""
            if not reply:
                connections.pop(fd).close()
            elif rest:
                unsent[fd] = rest
                context.submit(POLL, fd, select.POLLOUT)
            else:
                context.submit(POLL, fd, select.POLLIN)


def serve_datagrams(receiver: socket.socket, echo: Echo) -> None:
    """Wait until a datagram is there, and answer it."""
    receiver.setblocking(False)
    context = Context(1)
    while True:
        context.submit(POLL, receiver.fileno(), select.POLLIN)
        context.events()
        with contextlib.suppress(BlockingIOError):  # its checksum was wrong: select(2), BUGS
            answer_datagram(receiver, echo)


if __name__ == "__main__":
    run(serve, __doc__, datagrams=serve_datagrams, missing=missing)
