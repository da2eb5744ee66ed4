"""The event loop uvloop: asyncio's interface over libuv, the loop of Node.js.

Waits in   epoll_wait() or epoll_pwait() inside libuv, level-triggered.
Copies in  the read() that libuv makes before data_received() is called.
Blocked    the process, in epoll_wait(); and all other clients while a callback runs.

epoll_wait(2), accept(2), read(2), write(2); Python: library/asyncio-protocol
"""

import asyncio
import importlib.util
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


def serve(listener: socket.socket, echo: Echo) -> None:
    """Run the event loop; it receives as much at once as libuv likes, whatever --buffer says."""

    async def serve_clients() -> None:
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

    import uvloop

    uvloop.run(serve_clients())


def missing() -> str | None:
    """Say what this host lacks for the model."""
    return None if importlib.util.find_spec("uvloop") else "needs the Python package uvloop"


if __name__ == "__main__":
    run(serve, __doc__, datagrams=serve, missing=missing)
