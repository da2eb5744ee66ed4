"""``iophase top`` on a reference server: what it draws is what happens."""

from __future__ import annotations

import subprocess
import sys

import pytest

from servers.load import Load, LoadOptions
from servers.models import by_name
from tracer.reference import ReferenceServer

pytestmark = pytest.mark.live

TIMEOUT_S = 90
COLUMNS = 80


def top(*arguments: str) -> list[str]:
    command = [sys.executable, "-m", "tracer", "top", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    lines = done.stdout.splitlines()
    assert all(len(line) <= COLUMNS for line in lines)
    return lines


@pytest.mark.parametrize(
    ("view", "heading", "row"),
    [("processes", "process", "epoll level"), ("connections", "remote", "127.0.0.1:")],
)
def test_a_busy_server_is_shown_with_its_model_losses_and_cost(
    view: str, heading: str, row: str
) -> None:
    options = LoadOptions(connections=3, duration=TIMEOUT_S, rate=300)
    with ReferenceServer(by_name("epoll")) as server, Load(server.address, options) as load:
        load.connect()
        load.start()
        lines = top("-p", str(server.pid), "-n", "2", "--view", view)
    assert sum(line.startswith("iophase top") for line in lines) == 2
    last = lines[-lines[::-1].index(next(x for x in lines[::-1] if x.startswith("iophase"))) - 1 :]
    assert "lost 0 of" in last[1] and "own cost" in last[1]
    assert last[2].startswith(heading)
    assert row in last[3]
