"""I/O multiplexing with epoll and worker threads: EPOLLONESHOT gives a connection to one of them.

Waits in   epoll_wait() in every worker, on the same set; accept() in a thread of its own. The
           main thread only waits for signals.
Copies in  the recv() that follows, which does not wait.
Blocked    a worker, in epoll_wait(). A descriptor that was reported is switched off until the
           worker that got it switches it on again, so no two workers serve one client at once.

epoll(7), epoll_ctl(2), epoll_wait(2), accept(2), recv(2), send(2), pthreads(7)
"""

import select
import socket
import threading

from servers.common import Echo, Option, run, send_some

WORKERS = 4  # more than the CPUs of a small host; Python's own lock leaves no use for many
READ = select.EPOLLIN | select.EPOLLONESHOT
WRITE = select.EPOLLOUT | select.EPOLLONESHOT


def serve(listener: socket.socket, echo: Echo, workers: int = WORKERS) -> None:
    """Accept every client, and leave its messages to the workers."""
    epoll = select.epoll()
    connections: dict[int, socket.socket] = {}
    unsent: dict[int, bytes] = {}  # answers that did not fit into the send buffer
    for _ in range(workers):
        threading.Thread(target=work, args=(epoll, connections, unsent, echo), daemon=True).start()
    while True:
        connection, _ = listener.accept()
        connection.setblocking(False)
        echo.connections += 1
        connections[connection.fileno()] = connection
        epoll.register(connection, READ)


def work(
    epoll: select.epoll,
    connections: dict[int, socket.socket],
    unsent: dict[int, bytes],
    echo: Echo,
) -> None:
    """Answer one message of whichever client is next."""
    while True:
        for fd, _ in epoll.poll(maxevents=1):
            connection = connections[fd]
            try:
                reply = unsent.pop(fd, b"") or echo.reply(connection.recv(echo.buffer))
                rest = send_some(connection, reply) if reply else b""
            except BlockingIOError:
                epoll.modify(fd, READ)  # reported ready, and yet it was not: select(2), BUGS
                continue
            except OSError:  # the client has reset the connection
                reply = b""
            if not reply:
                connections.pop(fd).close()
            elif rest:
                unsent[fd] = rest
                epoll.modify(fd, WRITE)
            else:
                epoll.modify(fd, READ)


if __name__ == "__main__":
    run(serve, __doc__, Option("--workers", WORKERS, "threads that serve"), threads=True)
