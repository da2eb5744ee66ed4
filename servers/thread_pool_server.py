"""Blocking I/O with a bounded pool of threads.

Waits in   accept() in one thread; a worker in a queue (futex) for a connection, then in recv()
           for its data. The main thread only waits for signals.
Copies in  the same recv(), once data has come.
Blocked    one worker, in both phases. A client beyond the bound is accepted, but waits in the queue
           until another client leaves: `longest_wait_us` and `unserved` in the counters tell.

accept(2), recv(2), send(2), futex(2), pthreads(7)
"""

import socket
import threading
import time
from queue import SimpleQueue

from servers.common import Echo, Option, run

WORKERS = 16  # more than a handful of busy clients, so that the bound shows only when it is tried

Waiting = SimpleQueue[tuple[socket.socket, int]]  # accepted connections, and since when (ns)


def serve(listener: socket.socket, echo: Echo, workers: int = WORKERS) -> None:
    """Accept every client, and leave it to whichever worker is free first."""
    waiting: Waiting = SimpleQueue()
    longest_us = [0] * workers  # wait of a client for each worker
    echo.final_counters["longest_wait_us"] = lambda: max(longest_us)
    echo.final_counters["unserved"] = waiting.qsize
    for number in range(workers):
        arguments = (waiting, longest_us, number, echo)
        threading.Thread(target=work, args=arguments, daemon=True).start()
    while True:
        connection, _ = listener.accept()
        echo.connections += 1
        waiting.put((connection, time.monotonic_ns()))


def work(waiting: Waiting, longest_us: list[int], number: int, echo: Echo) -> None:
    """Serve one client after the other."""
    while True:
        connection, since = waiting.get()
        longest_us[number] = max(longest_us[number], (time.monotonic_ns() - since) // 1000)
        with connection:
            try:
                while reply := echo.reply(connection.recv(echo.buffer)):
                    connection.sendall(reply)
            except OSError:
                pass  # the client has reset the connection


if __name__ == "__main__":
    run(serve, __doc__, Option("--workers", WORKERS, "threads in the pool"), threads=True)
