"""Blocking I/O, iterative: one connection after the other.

Waits in   accept() for a connection, then recv() for its data.
Copies in  the same recv(), once data has come.
Blocked    the whole process, in both phases: while one client is served, or merely silent,
           all others wait in the listen queue.

accept(2), recv(2), send(2), tcp(7)
"""

import socket

from servers.common import Echo, answer_datagram, run


def serve(listener: socket.socket, echo: Echo) -> None:
    """Answer all messages of one client, then turn to the next."""
    while True:
        connection, _ = listener.accept()
        echo.connections += 1
        with connection:
            try:
                while reply := echo.reply(connection.recv(echo.buffer)):
                    connection.sendall(reply)
            except OSError:
                pass  # the client has reset the connection


def serve_datagrams(receiver: socket.socket, echo: Echo) -> None:
    """Answer one datagram after the other, whoever sends it."""
    while True:
        answer_datagram(receiver, echo)


if __name__ == "__main__":
    run(serve, __doc__, datagrams=serve_datagrams)
