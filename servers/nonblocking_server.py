"""Non-blocking I/O: ask every socket in turn, over and over.

Waits in   nothing: accept() and recv() return EAGAIN at once, and the loop burns a whole CPU.
Copies in  the recv() that finds data.
Blocked    never while waiting; only for the copy itself.

accept(2), recv(2), send(2), fcntl(2) for O_NONBLOCK
"""

import contextlib
import socket

from servers.common import Echo, answer_datagram, run, send_some


def serve(listener: socket.socket, echo: Echo) -> None:
    """Accept while clients come; else try to receive from each connection once."""
    listener.setblocking(False)
    unsent: dict[socket.socket, bytes] = {}  # of each connection; it is read again when all is sent

    while True:
        try:
            connection, _ = listener.accept()
            connection.setblocking(False)
            unsent[connection] = b""
            echo.connections += 1
        except BlockingIOError:
            closed = []
            for connection, reply in unsent.items():
                try:
                    reply = reply or echo.reply(connection.recv(echo.buffer))
                    if reply:
                        unsent[connection] = send_some(connection, reply)
                    else:
                        closed.append(connection)
                except BlockingIOError:
                    pass
                except OSError:  # the client has reset the connection
                    closed.append(connection)
            for connection in closed:
                del unsent[connection]
                connection.close()


def serve_datagrams(receiver: socket.socket, echo: Echo) -> None:
    """Try to receive a datagram, over and over."""
    receiver.setblocking(False)
    while True:
        with contextlib.suppress(BlockingIOError):
            answer_datagram(receiver, echo)


if __name__ == "__main__":
    run(serve, __doc__, datagrams=serve_datagrams)
