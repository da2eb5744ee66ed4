"""Signal-driven I/O with a signal handler (Stevens: SIGIO).

Waits in   sigsuspend(), until the handler has run; it is told the descriptor by a queued real-time
           signal.
Copies in  the recv() calls that follow, up to EAGAIN.
Blocked    the process, in sigsuspend(), not in recv(). A program with other work to do would do it
           instead, and be interrupted by the handler.

Every arrival queues a signal. When the queue is full, a plain SIGIO comes instead, which names no
descriptor: then all of them are tried.

fcntl(2) for O_ASYNC, F_SETOWN and F_SETSIG, sigaction(2), sigsuspend(2), signal(7)
"""

import ctypes
import fcntl
import os
import signal
import socket
from collections.abc import Callable

from servers.common import STOPPING, Echo, Stopped, answer_datagram, run, send_some

SIGNAL = signal.SIGRTMIN
SA_SIGINFO = 4

SignalSet = ctypes.c_ulong * 16  # sigset_t of the C library: 1024 bits


class SignalInfo(ctypes.Structure):
    """siginfo_t of a signal that fcntl(F_SETSIG) has asked for, 64-bit."""

    _fields_ = (
        ("si_signo", ctypes.c_int),
        ("si_errno", ctypes.c_int),
        ("si_code", ctypes.c_int),
        ("si_band", ctypes.c_long),
        ("si_fd", ctypes.c_int),
        ("rest", ctypes.c_char * 100),
    )


Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.POINTER(SignalInfo), ctypes.c_void_p)


class SignalAction(ctypes.Structure):
    """struct sigaction of the C library."""

    _fields_ = (
        ("sa_sigaction", Handler),
        ("sa_mask", SignalSet),
        ("sa_flags", ctypes.c_int),
        ("sa_restorer", ctypes.c_void_p),
    )


KEPT: list[SignalAction] = []  # handlers, which the kernel calls for as long as the program runs


def serve(listener: socket.socket, echo: Echo) -> None:
    """Sleep until the handler has noted which descriptor something has come for."""
    arrived: list[tuple[int, int]] = []  # signals that the handler has seen: number, descriptor
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

    wait = catch_signals(arrived)
    signal_arrivals(listener)
    accept()
    while True:
        wait()
        while arrived:
            number, fd = arrived.pop(0)
            if number in STOPPING:
                raise Stopped
            if number == signal.SIGIO:
                accept()
                for any_fd in tuple(connections):
                    answer(any_fd)
            elif fd == listener.fileno():
                accept()
            else:
                answer(fd)


def serve_datagrams(receiver: socket.socket, echo: Echo) -> None:
    """Sleep until the handler has noted that datagrams have come, and answer them all."""
    arrived: list[tuple[int, int]] = []
    wait = catch_signals(arrived)
    signal_arrivals(receiver)
    while not any(number in STOPPING for number, _ in arrived):
        arrived.clear()
        try:
            while True:
                answer_datagram(receiver, echo)
        except BlockingIOError:
            wait()


def catch_signals(arrived: list[tuple[int, int]]) -> Callable[[], None]:
    """Have a handler note every signal in `arrived`; return the call that waits for one."""

    def handle(number: int, info: "ctypes._Pointer[SignalInfo]", context: int) -> None:
        arrived.append((number, info.contents.si_fd))

    def wait() -> None:
        libc.sigsuspend(ctypes.byref(SignalSet()))

    # Held back everywhere but in sigsuspend(), so that the handler never interrupts the program
    # in the middle of something, and no signal is missed between two looks.
    held_back = (SIGNAL, signal.SIGIO, *STOPPING)
    signal.pthread_sigmask(signal.SIG_BLOCK, held_back)
    libc = ctypes.CDLL(None)
    all_signals = SignalSet(*[2**64 - 1] * 16)
    action = SignalAction(Handler(handle), all_signals, SA_SIGINFO)
    KEPT.append(action)
    for number in held_back:
        libc.sigaction(number, ctypes.byref(action), None)
    return wait


def signal_arrivals(ready: socket.socket) -> None:
    """Have this process sent SIGNAL, with the descriptor, whenever the socket gets ready."""
    ready.setblocking(False)
    fcntl.fcntl(ready, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(ready, fcntl.F_SETSIG, SIGNAL)
    fcntl.fcntl(ready, fcntl.F_SETFL, fcntl.fcntl(ready, fcntl.F_GETFL) | os.O_ASYNC)


if __name__ == "__main__":
    run(serve, __doc__, datagrams=serve_datagrams)
