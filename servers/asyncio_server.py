"""Python's own event loop, asyncio, with its transports and protocols.

Waits in   epoll_wait() inside the loop, level-triggered.
Copies in  the recv() that the loop makes before it calls data_received().
Blocked    the process, in epoll_wait(); and all other clients while a callback runs.

epoll_wait(2), accept(2), recv(2), send(2); Python: library/asyncio-protocol
"""

import asyncio
import socket
from typing import cast

from servers.common import STOPPING, Echo, run


class EchoProtocol(asyncio.Protocol):
    """One client; the loop calls these methods."""

    transport: asyncio.Transport

    def __init__(self, echo: Echo) -> None:
        self.echo = echo

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.echo.connections += 1

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.echo.reply(data))

    def pause_writing(self) -> None:
        """Read no more from a client that does not take its answers."""
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


class DatagramProtocol(asyncio.DatagramProtocol):
    """All clients of a UDP socket; the loop calls these methods."""

    transport: asyncio.DatagramTransport

    def __init__(self, echo: Echo) -> None:
        self.echo = echo

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, client: tuple[str, int]) -> None:
        self.transport.sendto(self.echo.reply(data), client)


async def serve_clients(listener: socket.socket, echo: Echo) -> None:
    """Have the loop serve all clients until a signal ends it."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in STOPPING:
        loop.add_signal_handler(number, stopped.set)
    if listener.type == socket.SOCK_DGRAM:
        await loop.create_datagram_endpoint(lambda: DatagramProtocol(echo), sock=listener)
    else:
        unix = listener.family == socket.AF_UNIX
        create = loop.create_unix_server if unix else loop.create_server
        await create(lambda: EchoProtocol(echo), sock=listener, backlog=echo.backlog)
    await stopped.wait()


def serve(listener: socket.socket, echo: Echo) -> None:
    """Run the event loop; it receives up to 256 KiB at once, whatever --buffer says."""
    asyncio.run(serve_clients(listener, echo))


if __name__ == "__main__":
    run(serve, __doc__, datagrams=serve)
