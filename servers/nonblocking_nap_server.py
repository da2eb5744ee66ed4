"""Non-blocking I/O with a nap between rounds: ask every socket in turn, then sleep a little.

Waits in   sleep(), blindly: data that comes during the nap is noticed only after it.
Copies in  the recv() that finds data; the others return EAGAIN at once.
Blocked    the process, in its nap.

accept(2), recv(2), send(2), fcntl(2) for O_NONBLOCK, clock_nanosleep(2)
"""

import socket
import time

from servers.common import Echo, Option, answer_datagram, run, send_some

NAP_S = 0.001  # the article's 2 s, brought down to what a client does not notice


def serve(listener: socket.socket, echo: Echo, nap: float = NAP_S) -> None:
    """Accept while clients come; else try to receive from each connection once, and nap."""
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
            time.sleep(nap)


def serve_datagrams(receiver: socket.socket, echo: Echo, nap: float = NAP_S) -> None:
    """Receive datagrams while there are any; else nap."""
    receiver.setblocking(False)
    while True:
        try:
            answer_datagram(receiver, echo)
        except BlockingIOError:
            time.sleep(nap)


if __name__ == "__main__":
    run(
        serve,
        __doc__,
        Option("--nap", NAP_S, "seconds to sleep between two rounds"),
        datagrams=serve_datagrams,
    )
