"""The models over unix stream sockets, UDP and IPv6: every message and byte is in the trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.load import Trace, load
from probes.program import Program
from servers.load import Load, LoadOptions
from servers.models import MODELS, Model, by_name
from tests.live.recording import assert_closed, recording, total
from tracer.reference import ReferenceServer

pytestmark = pytest.mark.live

MESSAGES = 53
SIZES = (1, 509, 4093)
"""Prime, each within one datagram and one buffer."""
CONNECTIONS = 3
NEEDS_LENGTH = {
    "io_uring",
    "io_uring-multishot",
    "io_uring-workers",
    "io_uring-sqpoll",
    "native-aio",
}
"""Their receives return to nobody: tracepoints see only TCP's unless sock_recv_length is there."""

UDP = [model.name for model in MODELS if model.udp]


def trace_of(
    program: Program, path: Path, model: Model, arguments: list[str]
) -> tuple[Trace, int, int]:
    """Return the trace of a server under load, and how many messages and bytes it received."""
    if (reason := model.missing()) is not None:
        pytest.skip(reason)
    attached = {probe.symbol for probe in program.attached if probe.backend}
    if model.name in NEEDS_LENGTH and "sock_recv_length" not in attached:
        pytest.skip(f"{model.name}: needs sock_recv_length (Linux 6.3)")
    options = LoadOptions(
        connections=CONNECTIONS,
        messages=MESSAGES,
        sizes=SIZES,
        suffix="_SB" if model.name == "selectors" else "",
        timeout=30.0,
    )
    with ReferenceServer(model, arguments) as server, Load(server.address, options) as clients:
        clients.prepare()
        with recording(program, path) as session:
            session.follow([server.pid])
            clients.connect()
            result = clients.run()
            session.stop()
        counters = server.stop()
    assert result.verified == counters["messages"] == MESSAGES
    assert result.bytes_sent == counters["bytes_received"]
    return load(path), counters["messages"], counters["bytes_received"]


def assert_exact(trace: Trace, messages: int, received: int) -> None:
    calls, deliveries = trace.calls, trace.deliveries
    assert total(calls["bytes"]) == total(trace.threads["bytes"]) == received
    assert total(deliveries["bytes"]) == received
    assert len(deliveries) == messages
    assert trace.meta["merged"] == 0
    assert_closed(trace)


@pytest.mark.parametrize("name", [model.name for model in MODELS])
def test_every_message_over_a_unix_stream_is_received_and_delivered_once(
    name: str, program: Program, tmp_path: Path
) -> None:
    arguments = ["--unix", str(tmp_path / "socket")]
    assert_exact(*trace_of(program, tmp_path / "trace", by_name(name), arguments))


@pytest.mark.parametrize("name", UDP)
def test_every_datagram_is_received_and_delivered_once(
    name: str, program: Program, tmp_path: Path
) -> None:
    assert_exact(*trace_of(program, tmp_path / "trace", by_name(name), ["--udp"]))


@pytest.mark.parametrize("name", ["epoll", "io_uring"])
def test_every_message_over_ipv6_is_received_and_delivered_once(
    name: str, program: Program, tmp_path: Path
) -> None:
    trace, messages, received = trace_of(
        program, tmp_path / "trace", by_name(name), ["--host", "::1"]
    )
    assert_exact(trace, messages, received)
    assert set(trace.sockets["family"]) == {"inet6"}
