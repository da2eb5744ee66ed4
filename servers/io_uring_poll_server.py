"""io_uring asking for readiness (IORING_OP_POLL_ADD): epoll's work, by requests.

Waits in   io_uring_enter(), for the completion of a poll request.
Copies in  the recv() that follows, which does not wait.
Blocked    the process, in io_uring_enter(), not in recv(). A request is good for one report; the
           next wait submits the new ones, so no system call is spent on that.

io_uring(7), io_uring_enter(2), io_uring_prep_poll_add(3), accept(2), recv(2), send(2)
"""

import contextlib
import select
import socket

from servers.common import Echo, answer_datagram, run, send_some
from servers.io_uring import POLL_ADD, Ring, missing


def serve(listener: socket.socket, echo: Echo) -> None:
    """Wait until any client can be answered, and answer all that can."""
    ring = Ring()
    listener.setblocking(False)
    ring.prepare(POLL_ADD, listener.fileno(), operation_flags=select.POLLIN)
    connections: dict[int, socket.socket] = {}
    unsent: dict[int, bytes] = {}  # answers that did not fit into the send buffer

    while True:
        for _, fd, _, _ in ring.wait():
            if fd == listener.fileno():
                ring.prepare(POLL_ADD, fd, operation_flags=select.POLLIN)
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    continue  # the client has gone again
                connection.setblocking(False)
                connections[connection.fileno()] = connection
                ring.prepare(POLL_ADD, connection.fileno(), operation_flags=select.POLLIN)
                echo.connections += 1
                continue

            connection = connections[fd]
            try:
                reply = unsent.pop(fd, b"") or echo.reply(connection.recv(echo.buffer))
                rest = send_some(connection, reply) if reply else b""
            except BlockingIOError:
                ring.prepare(POLL_ADD, fd, operation_flags=select.POLLIN)
                continue  # reported ready, and yet it was not: select(2), BUGS
            except OSError:  # the client has reset the connection
                reply = b""
            if not reply:
                connections.pop(fd).close()
            elif rest:
                unsent[fd] = rest
                ring.prepare(POLL_ADD, fd, operation_flags=select.POLLOUT)
            else:
                ring.prepare(POLL_ADD, fd, operation_flags=select.POLLIN)


def serve_datagrams(receiver: socket.socket, echo: Echo) -> None:
    """Wait until a datagram is there, and answer it."""
    receiver.setblocking(False)
    ring = Ring()
    while True:
        ring.prepare(POLL_ADD, receiver.fileno(), operation_flags=select.POLLIN)
        ring.wait()
        with contextlib.suppress(BlockingIOError):  # its checksum was wrong: select(2), BUGS
            answer_datagram(receiver, echo)


if __name__ == "__main__":
    run(serve, __doc__, datagrams=serve_datagrams, missing=missing)
