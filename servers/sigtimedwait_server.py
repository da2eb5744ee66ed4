"""Signal-driven I/O, its signals taken one by one with sigtimedwait().

Waits in   rt_sigtimedwait(), for a queued real-time signal that names the descriptor.
Copies in  the recv() calls that follow, up to EAGAIN.
Blocked    the process, in rt_sigtimedwait(), not in recv(). No signal handler runs.

Every arrival queues a signal. When the queue is full, a plain SIGIO comes instead, which names no
descriptor: then all of them are tried.

fcntl(2) for O_ASYNC, F_SETOWN and F_SETSIG, sigtimedwait(2), sigaction(2) for si_fd, signal(7)
"""

import fcntl
import os
import signal
import socket

from servers.common import STOPPING, Echo, Stopped, answer_datagram, run, send_some

SIGNAL = signal.SIGRTMIN


def serve(listener: socket.socket, echo: Echo) -> None:
    """Wait for the signal that says which descriptor something has come for."""
    connections: dict[int, socket.socket] = {}
    unsent: dict[int, bytes] = {}  # answers that did not fit into the send buffer

    def accept() -> None:
        try:
            while True:
                connection, _ = listener.accept()
                echo.connections += 1
                connections[connection.fileno()] = connection
                signal_arrivals(connection)
                answer(connection.fileno())  # what came before there was a signal for it
        except BlockingIOError:
            pass

    def answer(fd: int) -> None:
        if fd not in connections:
            return  # closed since the signal was queued
        try:
            while reply := unsent.pop(fd, b"") or echo.reply(connections[fd].recv(echo.buffer)):
                if rest := send_some(connections[fd], reply):
                    unsent[fd] = rest
                    return  # room in the send buffer is signalled as well
        except BlockingIOError:
            return
        except OSError:
            pass  # the client has reset the connection
        connections.pop(fd).close()

    signal.pthread_sigmask(signal.SIG_BLOCK, (SIGNAL, signal.SIGIO, *STOPPING))
    signal_arrivals(listener)
    accept()
    while True:
        arrived = signal.sigwaitinfo((SIGNAL, signal.SIGIO, *STOPPING))
        if arrived.si_signo in STOPPING:
            raise Stopped
        # Python has no si_fd, but on 64-bit Linux si_status lies at the same place of the union.
        fd = arrived.si_status
        if arrived.si_signo == signal.SIGIO:
            accept()
            for any_fd in tuple(connections):
                answer(any_fd)
        elif fd == listener.fileno():
            accept()
        else:
            answer(fd)


def serve_datagrams(receiver: socket.socket, echo: Echo) -> None:
    """Wait for the signal that datagrams have come, and answer them all."""
    expected = (SIGNAL, signal.SIGIO, *STOPPING)
    signal.pthread_sigmask(signal.SIG_BLOCK, expected)
    signal_arrivals(receiver)
    while True:
        try:
            while True:
                answer_datagram(receiver, echo)
        except BlockingIOError:
            pass
        if signal.sigwaitinfo(expected).si_signo in STOPPING:
            raise Stopped


def signal_arrivals(ready: socket.socket) -> None:
    """Have this process sent SIGNAL, with the descriptor, whenever the socket gets ready."""
    ready.setblocking(False)
    fcntl.fcntl(ready, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(ready, fcntl.F_SETSIG, SIGNAL)
    fcntl.fcntl(ready, fcntl.F_SETFL, fcntl.fcntl(ready, fcntl.F_GETFL) | os.O_ASYNC)


if __name__ == "__main__":
    run(serve, __doc__, datagrams=serve_datagrams)
