"""I/O multiplexing with Python's selectors: the article's callback server, its _SB suffix and all.

Waits in   epoll_wait(), which DefaultSelector takes on Linux.
Copies in  the recv() in the callback, which does not wait.
Blocked    the process, in epoll_wait(); and all other clients while a callback runs.

What each receive returned is answered in upper case and with _SB behind it.

epoll(7), epoll_wait(2), accept(2), recv(2), send(2); Python: library/selectors
"""

import contextlib
import selectors
import socket

from servers.common import Echo, run, send_some

SUFFIX = b"_SB"


def serve(listener: socket.socket, echo: Echo) -> None:
    """Register what to do with each socket, and do it when the socket is ready."""
    selector = selectors.DefaultSelector()
    unsent: dict[socket.socket, bytes] = {}  # answers that did not fit into the send buffer

    def accept(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.setblocking(False)
        echo.connections += 1
        selector.register(connection, selectors.EVENT_READ, read)

    def read(connection: socket.socket) -> None:
        data = connection.recv(echo.buffer)
        if not data:
            close(connection)
        elif rest := send_some(connection, echo.reply(data) + SUFFIX):
            unsent[connection] = rest
            selector.modify(connection, selectors.EVENT_WRITE, write)

    def write(connection: socket.socket) -> None:
        unsent[connection] = send_some(connection, unsent[connection])
        if not unsent[connection]:
            selector.modify(connection, selectors.EVENT_READ, read)

    def close(connection: socket.socket) -> None:
        selector.unregister(connection)
        unsent.pop(connection, None)
        connection.close()

    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ, accept)
    while True:
        for key, _ in selector.select():
            ready, callback = key.fileobj, key.data
            assert isinstance(ready, socket.socket)
            try:
                callback(ready)
            except BlockingIOError:
                pass  # reported ready, and yet it was not: select(2), BUGS
            except OSError:
                if ready is listener:
                    raise
                close(ready)  # the client has reset the connection


def serve_datagrams(receiver: socket.socket, echo: Echo) -> None:
    """Register how to answer a datagram, and do it when one is there."""

    def answer(receiver: socket.socket) -> None:
        data, client = receiver.recvfrom(echo.buffer)
        receiver.sendto(echo.reply(data) + SUFFIX, client)

    receiver.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(receiver, selectors.EVENT_READ, answer)
    while True:
        for key, _ in selector.select():
            # OSError: a wrong checksum (select(2), BUGS), or no room for the answer.
            with contextlib.suppress(OSError):
                key.data(key.fileobj)


if __name__ == "__main__":
    run(serve, __doc__, datagrams=serve_datagrams)
