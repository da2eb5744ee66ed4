"""I/O multiplexing with select(): one call waits for all sockets.

Waits in   select(), which is given all descriptors anew each time, and scans them all.
Copies in  the recv() that follows, which does not wait.
Blocked    the process, in select(), not in recv().

Descriptors from 1024 (FD_SETSIZE) on do not fit into an fd_set: such clients are turned away.

select(2), accept(2), recv(2), send(2)
"""

import contextlib
import select
import socket
import sys

from servers.common import Echo, answer_datagram, run, send_some

FD_SETSIZE = 1024  # select(2): fixed by the C library


def serve(listener: socket.socket, echo: Echo) -> None:
    """Wait until any client can be answered, and answer all that can."""
    listener.setblocking(False)
    reading = {listener}
    writing: dict[socket.socket, bytes] = {}  # answers that did not fit into the send buffer

    while True:
        readable, writable, _ = select.select(reading, writing, [])
        for ready in readable + writable:
            if ready is listener:
                if connection := accept(listener, echo):
                    reading.add(connection)
                continue
            try:
                reply = writing.pop(ready, b"") or echo.reply(ready.recv(echo.buffer))
                rest = send_some(ready, reply) if reply else b""
            except BlockingIOError:
                continue  # reported ready, and yet it was not: see BUGS in the man page
            except OSError:  # the client has reset the connection
                reply = b""
            reading.discard(ready)
            if not reply:
                ready.close()
            elif rest:
                writing[ready] = rest
            else:
                reading.add(ready)


def serve_datagrams(receiver: socket.socket, echo: Echo) -> None:
    """Wait until a datagram is there, and answer it."""
    receiver.setblocking(False)
    while True:
        select.select([receiver], [], [])
        with contextlib.suppress(
            BlockingIOError
        ):  # its checksum was wrong: see BUGS in the man page
            answer_datagram(receiver, echo)


def accept(listener: socket.socket, echo: Echo) -> socket.socket | None:
    """Take a waiting client, unless it has gone or its descriptor does not fit into an fd_set."""
    try:
        connection, _ = listener.accept()
    except BlockingIOError:
        return None
    if connection.fileno() < FD_SETSIZE:
        connection.setblocking(False)
        echo.connections += 1
        return connection
    if "refused" not in echo.more_counters:
        print(
            f"select_server: a client was refused: descriptor {connection.fileno()} "
            f"does not fit into select's fd_set of {FD_SETSIZE}; poll and epoll have no such limit",
            file=sys.stderr,
            flush=True,
        )
    echo.more_counters["refused"] = echo.more_counters.get("refused", 0) + 1
    connection.close()
    return None


if __name__ == "__main__":
    run(serve, __doc__, datagrams=serve_datagrams)
