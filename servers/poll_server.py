"""I/O multiplexing with poll(): like select(), without its limit of 1024 descriptors.

Waits in   poll(), which is given the whole array of descriptors each time, and scans it.
Copies in  the recv() that follows, which does not wait.
Blocked    the process, in poll(), not in recv().

poll(2), accept(2), recv(2), send(2)
"""

import contextlib
import select
import socket

from servers.common import Echo, answer_datagram, run, send_some


def serve(listener: socket.socket, echo: Echo) -> None:
    """Wait until any client can be answered, and answer all that can."""
    listener.setblocking(False)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    connections: dict[int, socket.socket] = {}
    unsent: dict[int, bytes] = {}  # answers that did not fit into the send buffer

    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    continue  # the client has gone again
                connection.setblocking(False)
                connections[connection.fileno()] = connection
                poll.register(connection, select.POLLIN)
                echo.connections += 1
                continue

            connection = connections[fd]
            waited_to_send = fd in unsent
            try:
                reply = unsent.pop(fd, b"") or echo.reply(connection.recv(echo.buffer))
                rest = send_some(connection, reply) if reply else b""
            except BlockingIOError:
                continue  # reported ready, and yet it was not: select(2), BUGS
            except OSError:  # the client has reset the connection
                reply = b""
            if not reply:
                poll.unregister(fd)
                connections.pop(fd).close()
            elif rest:
                unsent[fd] = rest
                poll.modify(fd, select.POLLOUT)
            elif waited_to_send:
                poll.modify(fd, select.POLLIN)


def serve_datagrams(receiver: socket.socket, echo: Echo) -> None:
    """Wait until a datagram is there, and answer it."""
    receiver.setblocking(False)
    poll = select.poll()
    poll.register(receiver, select.POLLIN)
    while True:
        poll.poll()
        with contextlib.suppress(BlockingIOError):  # its checksum was wrong: select(2), BUGS
            answer_datagram(receiver, echo)


if __name__ == "__main__":
    run(serve, __doc__, datagrams=serve_datagrams)
