"""Blocking I/O with a pool of processes, forked beforehand, that share the listening socket.

Waits in   accept() in every idle child, recv() in every busy one; the parent only waits for them.
Copies in  the same recv(), once data has come.
Blocked    one child, in both phases. A client beyond the bound waits in the listen queue, connected
           but not accepted, until another client leaves: `unserved` in the counters tells.

fork(2), wait(2), accept(2), recv(2), send(2), tcp(7)
"""

import socket
import struct

from servers.children import Children
from servers.common import Echo, Option, run, wait_until_stopped

WORKERS = 16  # more than a handful of busy clients, so that the bound shows only when it is tried
TCPI_UNACKED = 24  # its offset in struct tcp_info; for a listener, the clients not yet accepted


def serve(listener: socket.socket, echo: Echo, workers: int = WORKERS) -> None:
    """Fork the children, and wait for the end."""
    with Children(echo) as children:
        for _ in range(workers):
            children.fork(work, listener, echo)
        try:
            wait_until_stopped()
        finally:
            if listener.family != socket.AF_UNIX:
                tcp_info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
                echo.more_counters["unserved"] = struct.unpack_from("I", tcp_info, TCPI_UNACKED)[0]


def work(listener: socket.socket, echo: Echo) -> None:
    """Serve one client after the other."""
    while True:
        connection, _ = listener.accept()
        echo.connections += 1
        with connection:
            try:
                while reply := echo.reply(connection.recv(echo.buffer)):
                    connection.sendall(reply)
            except OSError:
                pass  # the client has reset the connection


if __name__ == "__main__":
    run(serve, __doc__, Option("--workers", WORKERS, "processes in the pool"))
