"""io_uring with workers: every receive goes to a worker thread of the kernel (IOSQE_ASYNC).

Waits in   io_uring_enter(). The worker (iou-wrk) that took the receive does not wait for data: it
           leaves a callback behind, and a worker takes the receive up again when data has come.
Copies in  the worker, which the kernel has made for this process as one of its threads.
Blocked    the process, in io_uring_enter(), while it waits; never for the copy. The price is a
           switch of thread for every message.

Else it is the server of io_uring.

io_uring(7), io_uring_enter(2) for IOSQE_ASYNC, io_uring_prep_recv(3)
"""

import functools

from servers import io_uring_server
from servers.common import run
from servers.io_uring import ASYNC, missing_workers

serve = functools.partial(io_uring_server.serve, receive_flags=ASYNC)
serve_datagrams = functools.partial(io_uring_server.serve_datagrams, receive_flags=ASYNC)
missing = missing_workers  # for models.py, too

if __name__ == "__main__":
    run(serve, __doc__, datagrams=serve_datagrams, missing=missing)
