"""The event loop uvloop: asyncio's interface over libuv, the loop of Node.js.

Waits in   epoll_wait() or epoll_pwait() inside libuv, level-triggered.
Copies in  the read() that libuv makes before data_received() is called.
Blocked    the process, in epoll_wait(); and all other clients while a callback runs.

Else it is the server of asyncio.

epoll_wait(2), accept(2), read(2), write(2); Python: library/asyncio-protocol
"""

import importlib.util
import socket

from servers.asyncio_server import serve_clients
from servers.common import Echo, run


def serve(listener: socket.socket, echo: Echo) -> None:
    """Run the event loop; it receives as much at once as libuv likes, whatever --buffer says."""
    import uvloop

    uvloop.run(serve_clients(listener, echo))


def missing() -> str | None:
    """Say what this host lacks for the model."""
    return None if importlib.util.find_spec("uvloop") else "needs the Python package uvloop"


if __name__ == "__main__":
    run(serve, __doc__, datagrams=serve, missing=missing)
