"""I/O multiplexing with epoll, edge-triggered: told once for each arrival.

Waits in   epoll_wait(), which returns a descriptor when data has come since it was last returned.
Copies in  the recv() calls that follow: as many as it takes until one returns EAGAIN, for what
           is left behind is not reported again.
Blocked    the process, in epoll_wait(), not in recv().

epoll(7), epoll_ctl(2), epoll_wait(2), accept(2), recv(2), send(2)
"""

import select
import socket

from servers.common import Echo, answer_datagram, run, send_some


def serve(listener: socket.socket, echo: Echo) -> None:
    """Wait until something has come or gone, and follow it up to EAGAIN."""
    listener.setblocking(False)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN | select.EPOLLET)
    connections: dict[int, socket.socket] = {}
    unsent: dict[int, bytes] = {}  # answers that did not fit into the send buffer

    while True:
        for fd, _ in epoll.poll():
            if fd != listener.fileno():
                if not answer(connections[fd], unsent, echo):
                    connections.pop(fd).close()
                continue
            while connection := accept(listener):
                echo.connections += 1
                connections[connection.fileno()] = connection
                # Room in the send buffer is an edge as well: one registration does for both.
                epoll.register(connection, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)


def accept(listener: socket.socket) -> socket.socket | None:
    """Take a waiting client, if there is one."""
    try:
        connection, _ = listener.accept()
    except BlockingIOError:
        return None
    connection.setblocking(False)
    return connection


def answer(connection: socket.socket, unsent: dict[int, bytes], echo: Echo) -> bool:
    """Answer until there is no more data, or no more room; return False when the client is gone."""
    fd = connection.fileno()
    try:
        while reply := unsent.pop(fd, b"") or echo.reply(connection.recv(echo.buffer)):
            if rest := send_some(connection, reply):
                unsent[fd] = rest
                return True
    except BlockingIOError:
        return True
    except OSError:
        pass  # the client has reset the connection
    return False


def serve_datagrams(receiver: socket.socket, echo: Echo) -> None:
    """Wait until datagrams have come, and answer them all."""
    receiver.setblocking(False)
    epoll = select.epoll()
    epoll.register(receiver, select.EPOLLIN | select.EPOLLET)
    while True:
        epoll.poll()
        try:
            while True:
                answer_datagram(receiver, echo)
        except BlockingIOError:
            pass


if __name__ == "__main__":
    run(serve, __doc__, datagrams=serve_datagrams)
