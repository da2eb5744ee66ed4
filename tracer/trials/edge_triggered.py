"""Two waits for each arrival, nothing read between them: edge-triggered, and level-triggered.

epoll(7), epoll_ctl(2), epoll_wait(2)
"""

from __future__ import annotations

import select
from typing import Any

from tracer.trials.trial import ROUNDS, run, tcp_pair

__all__ = ("trial",)

MESSAGE = bytes(64)
PATIENCE_S = 5.0


def trial() -> dict[str, Any]:
    """Have one connection watched in both ways, and let data arrive without reading it."""
    near, far = tcp_pair()
    edge, level = select.epoll(), select.epoll()
    edge.register(near, select.EPOLLIN | select.EPOLLET)
    level.register(near, select.EPOLLIN)
    for _ in range(ROUNDS):
        far.sendall(MESSAGE)
        for watcher in (edge, level):
            watcher.poll(PATIENCE_S)
            watcher.poll(0)
    return {"rounds": ROUNDS, "edge_fd": edge.fileno(), "level_fd": level.fileno()}


if __name__ == "__main__":
    run(trial)
