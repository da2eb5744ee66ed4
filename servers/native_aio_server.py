"""Native AIO reading from a socket: asynchronous in name only.

Waits in   io_submit(): for a socket the kernel knows no asynchronous read, and waits there.
Copies in  the same io_submit(), once data has come; io_getevents() then only reports it.
Blocked    the whole process, in both phases, in io_submit(). With two clients, the silent one
           would hold up the other: so this server is iterative, as with blocking I/O.

io_submit(2), io_getevents(2), accept(2), send(2)
"""

import errno
import socket

from servers.aio import PREAD, Context, missing
from servers.common import Echo, run
from servers.native import address_of


def serve(listener: socket.socket, echo: Echo) -> None:
    """Answer all messages of one client, then turn to the next."""
    context = Context(1)
    buffer = bytearray(echo.buffer)
    while True:
        connection, _ = listener.accept()
        echo.connections += 1
        with connection:
            try:
                while reply := echo.reply(receive(context, connection, buffer)):
                    connection.sendall(reply)
            except OSError:
                pass  # the client has reset the connection


def receive(context: Context, connection: socket.socket, buffer: bytearray) -> bytes:
    """Submit a read, which is where the wait is, and collect its result."""
    result = -errno.EINTR  # a signal interrupts the wait, and with it the read
    while result == -errno.EINTR:
        context.submit(PREAD, connection.fileno(), address_of(buffer), len(buffer))
        [(_, result)] = context.events()
    if result < 0:
        raise OSError(-result, "read")
    return bytes(buffer[:result])


if __name__ == "__main__":
    run(serve, __doc__, missing=missing)
