"""I/O multiplexing with epoll, level-triggered: the kernel keeps the set of descriptors.

Waits in   epoll_wait(), which is given nothing and returns only the descriptors that are ready:
           each was put on the ready list by a callback when its data came.
Copies in  the recv() that follows, which does not wait.
Blocked    the process, in epoll_wait(), not in recv().

epoll(7), epoll_ctl(2), epoll_wait(2), accept(2), recv(2), send(2)
"""

import contextlib
import select
import socket

from servers.common import Echo, answer_datagram, run, send_some


def serve(listener: socket.socket, echo: Echo) -> None:
    """Wait until any client can be answered, and answer all that can."""
    listener.setblocking(False)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    unsent: dict[int, bytes] = {}  # answers that did not fit into the send buffer

    while True:
        for fd, _ in epoll.poll():
            if fd == listener.fileno():
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    continue  # the client has gone again
                connection.setblocking(False)
                connections[connection.fileno()] = connection
                epoll.register(connection, select.EPOLLIN)
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
                epoll.unregister(fd)
                connections.pop(fd).close()
            elif rest:
                unsent[fd] = rest
                epoll.modify(fd, select.EPOLLOUT)
            elif waited_to_send:
                epoll.modify(fd, select.EPOLLIN)


def serve_datagrams(receiver: socket.socket, echo: Echo) -> None:
    """Wait until a datagram is there, and answer it."""
    receiver.setblocking(False)
    epoll = select.epoll()
    epoll.register(receiver, select.EPOLLIN)
    while True:
        epoll.poll()
        with contextlib.suppress(BlockingIOError):  # its checksum was wrong: select(2), BUGS
            answer_datagram(receiver, echo)


if __name__ == "__main__":
    run(serve, __doc__, datagrams=serve_datagrams)
