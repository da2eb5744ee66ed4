"""io_uring with a poller: a kernel thread picks up the requests, without a system call.

Waits in   io_uring_enter(), and only when no completion is there yet.
Copies in  the poller thread (iou-sqp), which also receives; it spins on a CPU while there is work.
Blocked    the process, in io_uring_enter(), while it waits; never for the copy.

Else it is the server of io_uring.

io_uring(7), io_uring_setup(2) for IORING_SETUP_SQPOLL, io_uring_enter(2), io_uring_prep_recv(3)
"""

import functools

from servers import io_uring_server
from servers.common import run
from servers.io_uring import SETUP_SQPOLL, Ring, missing_sqpoll

# The poller sleeps when nothing was submitted for so long: longer than the pauses of a busy
# client, short enough to leave the CPU alone soon after the last.
IDLE_MS = 50

new_ring = functools.partial(Ring, SETUP_SQPOLL, IDLE_MS)
serve = functools.partial(io_uring_server.serve, new_ring=new_ring)
serve_datagrams = functools.partial(io_uring_server.serve_datagrams, new_ring=new_ring)
missing = missing_sqpoll  # for models.py, too

if __name__ == "__main__":
    run(serve, __doc__, datagrams=serve_datagrams, missing=missing)
