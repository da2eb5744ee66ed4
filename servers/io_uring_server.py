"""io_uring with a receive per client: requests and results travel through rings in shared memory.

Waits in   io_uring_enter(): a receive without data is parked in the kernel, with a callback.
Copies in  the same io_uring_enter(): when data comes, the receive is done as task work of this
           very thread, before the call returns its completion.
Blocked    the process, in io_uring_enter(), in both phases; but it could do other work until it
           chooses to enter. Every silent client holds a buffer.

io_uring(7), io_uring_enter(2), io_uring_prep_accept(3), io_uring_prep_recv(3),
io_uring_prep_send(3)
"""

import os
import socket
from collections.abc import Callable

from servers.common import Echo, run
from servers.io_uring import ACCEPT, RECV, RECVMSG, SEND, SENDMSG, Datagram, Ring, missing
from servers.native import address_of


class Client:
    """A connection's buffer: a message comes into it, and is answered from it."""

    def __init__(self, size: int) -> None:
        self.buffer = bytearray(size)
        self.address = address_of(self.buffer)
        self.answered = self.filled = 0  # bytes of the buffer


def serve(
    listener: socket.socket,
    echo: Echo,
    new_ring: Callable[[], Ring] = Ring,
    receive_flags: int = 0,
) -> None:
    """Have one request under way for every client: a receive, then a send, and again."""
    ring = new_ring()
    clients: dict[int, Client] = {}

    def accept() -> None:
        ring.prepare(ACCEPT, listener.fileno(), operation_flags=socket.SOCK_CLOEXEC)

    def receive(fd: int) -> None:
        ring.prepare(RECV, fd, clients[fd].address, echo.buffer, flags=receive_flags)

    def send(fd: int) -> None:
        client = clients[fd]
        start, size = client.address + client.answered, client.filled - client.answered
        ring.prepare(SEND, fd, start, size, operation_flags=socket.MSG_NOSIGNAL)

    accept()
    while True:
        for operation, fd, result, _ in ring.wait():
            if operation == ACCEPT:
                if result < 0:
                    raise OSError(-result, os.strerror(-result))
                echo.connections += 1
                clients[result] = Client(echo.buffer)
                receive(result)
                accept()
            elif result <= 0:  # the end of the stream, or the client has reset the connection
                del clients[fd]
                os.close(fd)
            elif operation == RECV:
                client = clients[fd]
                client.buffer[:result] = echo.reply(bytes(client.buffer[:result]))
                client.answered, client.filled = 0, result
                send(fd)
            else:
                clients[fd].answered += result
                if clients[fd].answered < clients[fd].filled:
                    send(fd)
                else:
                    receive(fd)


def serve_datagrams(
    receiver: socket.socket,
    echo: Echo,
    new_ring: Callable[[], Ring] = Ring,
    receive_flags: int = 0,
) -> None:
    """Receive a datagram with the address of its sender, and answer it."""
    ring = new_ring()
    datagram = Datagram(echo.buffer)
    while True:
        datagram.make_room()
        ring.prepare(RECVMSG, receiver.fileno(), datagram.address, 1, flags=receive_flags)
        [received] = ring.wait()
        if received.result >= 0:
            datagram.put(echo.reply(bytes(datagram.data[: received.result])))
            ring.prepare(SENDMSG, receiver.fileno(), datagram.address, 1)
            ring.wait()  # an answer for which there is no room is lost, udp(7)


if __name__ == "__main__":
    run(serve, __doc__, datagrams=serve_datagrams, missing=missing)
