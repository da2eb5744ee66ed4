"""A thousand silent clients beside ten busy ones: every model that can hold them does, traced."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.load import load as loaded
from probes.program import Program
from servers.load import Load, LoadOptions
from servers.models import MODELS, Model, by_name
from tests.live.command import wait_until
from tests.live.recording import assert_closed, recording, total
from tests.servers.client import suffix
from tracer.processes import descendants_of, socket_inodes
from tracer.reference import ReferenceServer

pytestmark = pytest.mark.live

IDLE, BUSY, MESSAGES = 1000, 10, 211
SELECT_HOLDS = by_name("select").connections or 0
HOLDS = [model for model in MODELS if model.connections is None or model.connections > IDLE]


def sockets(pid: int) -> int:
    """Return how many sockets a server and its children have open."""
    return len(set().union(*map(socket_inodes, (pid, *descendants_of(pid)))))


@pytest.mark.parametrize(
    ("model", "idle"),
    [*((model, IDLE) for model in HOLDS), (by_name("select"), SELECT_HOLDS - BUSY)],
    ids=lambda value: value.name if isinstance(value, Model) else str(value),
)
def test_a_crowd_of_silent_connections_is_held_and_the_busy_ones_are_served(
    model: Model, idle: int, program: Program, tmp_path: Path
) -> None:
    if (reason := model.missing()) is not None:
        pytest.skip(f"{model.name}: {reason}")
    options = LoadOptions(
        connections=BUSY, idle=idle, messages=MESSAGES, timeout=60, suffix=suffix(model).decode()
    )
    with (
        ReferenceServer(model) as server,
        recording(program, tmp_path / "trace") as session,
        Load(server.address, options) as load,
    ):
        session.follow([server.pid])
        load.connect()
        # That they stand does not mean that the server has accepted them already: listen(2).
        wait_until(lambda: sockets(server.pid) > idle + BUSY)
        load.start()
        result = load.result()
        session.stop()
        counters = server.stop()
    assert (result.verified, result.idle_open, result.errors) == (MESSAGES, idle, 0)
    assert counters["connections"] == idle + BUSY
    assert "refused" not in counters
    trace = loaded(tmp_path / "trace")
    assert len(trace.deliveries) == MESSAGES
    assert total(trace.calls["bytes"]) == counters["bytes_received"]
    assert_closed(trace)
