"""Blocking I/O with a thread for every connection.

Waits in   accept() in one thread, recv() in the thread of each connection. The main thread only
           waits for signals.
Copies in  the same recv(), once data has come.
Blocked    one thread, in both phases; the other threads go on.

accept(2), recv(2), send(2), pthreads(7), tcp(7)
"""

import socket
import threading

from servers.common import Echo, run


def serve(listener: socket.socket, echo: Echo) -> None:
    """Start a thread for each client."""
    while True:
        connection, _ = listener.accept()
        echo.connections += 1
        threading.Thread(target=serve_client, args=(connection, echo), daemon=True).start()


def serve_client(connection: socket.socket, echo: Echo) -> None:
    """Answer all messages of one client."""
    with connection:
        try:
            while reply := echo.reply(connection.recv(echo.buffer)):
                connection.sendall(reply)
        except OSError:
            pass  # the client has reset the connection


if __name__ == "__main__":
    run(serve, __doc__, threads=True)
