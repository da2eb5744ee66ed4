"""Blocking I/O with a process for every connection (fork per client).

Waits in   accept() in the parent, recv() in the child of each connection.
Copies in  the same recv(), once data has come.
Blocked    one child process, in both phases; the others go on.

fork(2), wait(2), accept(2), recv(2), send(2), tcp(7)
"""

import socket

from servers.children import Children
from servers.common import Echo, run


def serve(listener: socket.socket, echo: Echo) -> None:
    """Fork a child for each client."""
    with Children(echo) as children:
        while True:
            connection, _ = listener.accept()
            echo.connections += 1
            children.fork(serve_client, connection, listener, echo)
            connection.close()  # the child has its own descriptor of it


def serve_client(connection: socket.socket, listener: socket.socket, echo: Echo) -> None:
    """Answer all messages of one client."""
    listener.close()
    with connection:
        try:
            while reply := echo.reply(connection.recv(echo.buffer)):
                connection.sendall(reply)
        except OSError:
            pass  # the client has reset the connection


if __name__ == "__main__":
    run(serve, __doc__)
