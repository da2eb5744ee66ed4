"""io_uring, multishot: one request accepts all clients, one per client receives all its messages.

Waits in   io_uring_enter().
Copies in  the same io_uring_enter(), as task work of this very thread, into a buffer that is taken
           from a common pool only when data is there: a silent client holds none.
Blocked    the process, in io_uring_enter(), in both phases; but it could do other work until it
           chooses to enter.

io_uring(7), io_uring_enter(2), io_uring_prep_multishot_accept(3), io_uring_prep_recv_multishot(3),
io_uring_register_buf_ring(3)
"""

import errno
import os
import socket
from collections import deque

from servers.common import Echo, run
from servers.io_uring import (
    ACCEPT,
    ACCEPT_MULTISHOT,
    BUFFER_SELECT,
    CANCEL,
    RECV,
    RECV_MULTISHOT,
    SEND,
    Buffers,
    Completion,
    Ring,
    missing_multishot,
)
from servers.native import address_of

BUFFERS = 64  # a power of 2; with 64 KiB each, 4 MiB for all clients together
# A client that takes no answers is not read any further once so many wait for it.
WAITING_ANSWERS = 16

missing = missing_multishot  # for models.py, too


class Client:
    """A connection: the answers that wait to be sent, and the state of its receive."""

    def __init__(self) -> None:
        self.answers: deque[bytearray] = deque()  # the first one is being sent
        self.receiving = False
        self.cancelled = False
        self.ended = False


def serve(listener: socket.socket, echo: Echo) -> None:
    """Have one receive under way for every client, and a send when there is something to send."""
    ring = Ring()
    buffers = Buffers(ring, BUFFERS, echo.buffer)
    clients: dict[int, Client] = {}

    def accept() -> None:
        flags = socket.SOCK_CLOEXEC
        ring.prepare(ACCEPT, listener.fileno(), priority=ACCEPT_MULTISHOT, operation_flags=flags)

    def send(fd: int) -> None:
        answer = clients[fd].answers[0]
        flags = socket.MSG_NOSIGNAL
        ring.prepare(SEND, fd, address_of(answer), len(answer), operation_flags=flags)

    def accepted(completion: Completion) -> None:
        if completion.result < 0:
            raise OSError(-completion.result, os.strerror(-completion.result))
        echo.connections += 1
        clients[completion.result] = Client()
        proceed(completion.result)
        if not completion.more:
            accept()

    def received(completion: Completion) -> None:
        fd = completion.fd
        client = clients[fd]
        client.receiving = completion.more
        if completion.result > 0:
            client.answers.append(bytearray(echo.reply(buffers.take(completion))))
            if len(client.answers) == 1:
                send(fd)
        elif completion.result not in (-errno.ENOBUFS, -errno.ECANCELED):
            client.ended = True  # the end of the stream, or the client has reset the connection
        proceed(fd)

    def sent(completion: Completion) -> None:
        fd = completion.fd
        client = clients[fd]
        if completion.result < 0:  # the client has reset the connection; the receive ends, too
            client.ended = True
            client.answers.clear()
        else:
            rest = client.answers.popleft()[completion.result :]
            if rest:
                client.answers.appendleft(rest)
            if client.answers:
                send(fd)
        proceed(fd)

    def proceed(fd: int) -> None:
        client = clients[fd]
        too_many = len(client.answers) >= WAITING_ANSWERS
        if client.ended:
            if not client.answers and not client.receiving:
                del clients[fd]
                os.close(fd)
        elif client.receiving and too_many and not client.cancelled:
            client.cancelled = True
            ring.cancel(RECV, fd)
        elif not client.receiving and not too_many:
            client.receiving, client.cancelled = True, False
            ring.prepare(RECV, fd, flags=BUFFER_SELECT, priority=RECV_MULTISHOT)

    handlers = {ACCEPT: accepted, RECV: received, SEND: sent}
    accept()
    while True:
        for completion in ring.wait():
            if completion.operation != CANCEL:
                handlers[completion.operation](completion)


if __name__ == "__main__":
    run(serve, __doc__, missing=missing)
