"""POSIX AIO as glibc has it, completion by signal: the article's picture of asynchronous I/O.

Waits in   a helper thread of the C library, in a blocking read() of its own for each connection;
           the program itself waits in rt_sigtimedwait() for the signal.
Copies in  the same read(), in the helper thread: when the signal comes, the data is there.
Blocked    the helper threads, in both phases. The program is not; the price is a thread for every
           silent client, and two switches of thread for every message.

Answers are sent by aio_write(). There is no asynchronous accept(): new clients come by O_ASYNC.

aio(7), aio_read(3), aio_write(3), aio_init(3), sigevent(3type), sigtimedwait(2), fcntl(2)
"""

import ctypes
import fcntl
import os
import platform
import signal
import socket

from servers.common import STOPPING, Echo, Stopped, run
from servers.native import address_of

COMPLETED = signal.SIGRTMIN
ARRIVED = signal.SIGRTMIN + 1
SIGEV_SIGNAL = 0
# glibc starts 20 helpers at most unless told otherwise, and the 21st silent client would stop all.
HELPERS = 4096


class ControlBlock(ctypes.Structure):
    """struct aiocb of glibc, 64-bit; the struct sigevent in it unfolded."""

    _fields_ = (
        ("aio_fildes", ctypes.c_int),
        ("aio_lio_opcode", ctypes.c_int),
        ("aio_reqprio", ctypes.c_int),
        ("aio_buf", ctypes.c_void_p),
        ("aio_nbytes", ctypes.c_size_t),
        ("sigev_value", ctypes.c_size_t),
        ("sigev_signo", ctypes.c_int),
        ("sigev_notify", ctypes.c_int),
        ("sigev_rest", ctypes.c_char * 48),
        ("private", ctypes.c_char * 32),
        ("aio_offset", ctypes.c_long),
        ("reserved", ctypes.c_char * 32),
    )


class Limits(ctypes.Structure):
    """struct aioinit of glibc."""

    _fields_ = (
        ("aio_threads", ctypes.c_int),
        ("aio_num", ctypes.c_int),
        ("rest", ctypes.c_int * 6),
    )


class Client:
    """A connection, its buffer, and the one request that is under way for it."""

    def __init__(self, connection: socket.socket, size: int) -> None:
        self.connection = connection
        self.buffer = bytearray(size)
        self.reading = True
        self.request = ControlBlock(
            aio_fildes=connection.fileno(),
            aio_buf=address_of(self.buffer),
            sigev_value=connection.fileno(),
            sigev_signo=COMPLETED,
            sigev_notify=SIGEV_SIGNAL,
        )


def serve(listener: socket.socket, echo: Echo) -> None:
    """Have a read under way for every client; its completion is a signal."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.aio_return.restype = ctypes.c_ssize_t
    libc.aio_init(ctypes.byref(Limits(aio_threads=HELPERS, aio_num=HELPERS)))
    clients: dict[int, Client] = {}

    def accept() -> None:
        try:
            while True:
                connection, _ = listener.accept()
                echo.connections += 1
                clients[connection.fileno()] = client = Client(connection, echo.buffer)
                read(client)
        except BlockingIOError:
            pass

    def read(client: Client) -> None:
        client.reading = True
        client.request.aio_nbytes = echo.buffer
        start(libc.aio_read, client)

    def write(client: Client, reply: bytes) -> None:
        client.reading = False
        client.buffer[: len(reply)] = reply
        client.request.aio_nbytes = len(reply)
        start(libc.aio_write, client)

    def start(function: "ctypes._NamedFuncPointer", client: Client) -> None:
        if function(ctypes.byref(client.request)) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def complete(client: Client) -> None:
        done = libc.aio_return(ctypes.byref(client.request))
        if done > 0 and client.reading:
            write(client, echo.reply(bytes(client.buffer[:done])))
        elif done > 0:
            read(client)
        else:  # the end of the stream, or the client has reset the connection
            clients.pop(client.connection.fileno()).connection.close()

    expected = (COMPLETED, ARRIVED, signal.SIGIO, *STOPPING)
    signal.pthread_sigmask(signal.SIG_BLOCK, expected)
    signal_arrivals(listener)
    accept()
    while True:
        arrived = signal.sigwaitinfo(expected)
        if arrived.si_signo in STOPPING:
            raise Stopped
        if arrived.si_signo == COMPLETED:
            # Python has no si_value, but on 64-bit Linux si_status lies at its place of the union.
            complete(clients[arrived.si_status])
        else:
            accept()


def signal_arrivals(listener: socket.socket) -> None:
    """Have this process sent ARRIVED when a client connects."""
    listener.setblocking(False)
    fcntl.fcntl(listener, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(listener, fcntl.F_SETSIG, ARRIVED)
    fcntl.fcntl(listener, fcntl.F_SETFL, fcntl.fcntl(listener, fcntl.F_GETFL) | os.O_ASYNC)


def missing() -> str | None:
    """Say what this host lacks for the model."""
    return None if platform.libc_ver()[0] == "glibc" else "needs the GNU C library's POSIX AIO"


if __name__ == "__main__":
    run(serve, __doc__, missing=missing)
