"""The same servers over IPv6, UDP and unix stream sockets."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.models import MODELS, Model
from tests.servers.client import PATIENCE_S, ROOT, Server, payload, receive, suffix

MESSAGES = 101
UDP_MODELS = [model for model in MODELS if model.udp]


@pytest.fixture(params=MODELS, ids=lambda model: model.name)
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    found: Model = request.param
    if (reason := found.missing()) is not None:
        pytest.skip(f"{found.name}: {reason}")
    yield found


def test_unix_stream_clients_are_answered_and_counted(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Server(model.module, "--unix", str(path)) as server:
        assert server.listening_on == f"unix:{path}"
        with server.connect() as connection:
            assert connection.family == socket.AF_UNIX
            for _ in range(MESSAGES):
                connection.sendall(payload(64))
                expected = payload(64).upper() + suffix(model)
                assert receive(connection, len(expected)) == expected
        counters = server.stop()
        assert server.errors == ""
    assert (counters["messages"], counters["bytes_received"]) == (MESSAGES, MESSAGES * 64)
    assert not path.exists()


@pytest.mark.parametrize("model", UDP_MODELS, ids=lambda model: model.name, indirect=True)
def test_datagrams_are_answered_and_counted(model: Model) -> None:
    sizes = (1, 64, 60_000)
    with Server(model.module, "--udp") as server:
        first, second = server.connect(), server.connect()
        for _ in range(MESSAGES):
            for connection, size in zip((first, second, first), sizes, strict=True):
                connection.send(payload(size))
                assert connection.recv(1 << 16) == payload(size).upper() + suffix(model)
        first.close()
        second.close()
        counters = server.stop()
        assert server.errors == ""
    assert counters["messages"] == MESSAGES * len(sizes)
    assert counters["bytes_received"] == MESSAGES * sum(sizes)


def test_ipv6_clients_are_answered() -> None:
    with Server("servers.epoll_server", "--host", "::1") as server, server.connect() as connection:
        assert connection.family == socket.AF_INET6
        connection.sendall(payload(64))
        assert receive(connection, 64) == payload(64).upper()


def test_abstract_unix_sockets_are_named_with_an_at_sign() -> None:
    name = "@iophase-test-abstract"
    with Server("servers.epoll_server", "--unix", name) as server:
        assert server.listening_on == f"unix:{name}"


def test_a_unix_path_in_use_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    path.touch()
    done = subprocess.run(
        [sys.executable, "-m", "servers.epoll_server", "--unix", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"epoll_server: cannot listen on {path}: Address already in use")
    assert done.stderr.count("\n") == 1
    assert path.exists()


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("epoll", ["--port", "65536"]),
        ("epoll", ["--buffer", "0"]),
        ("epoll", ["--backlog", "many"]),
        ("epoll", ["--work", "-1"]),
        ("thread_pool", ["--workers", "0"]),
        ("nonblocking_nap", ["--nap", "nan"]),
    ],
)
def test_wrong_usage_exits_2(model: str, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"servers.{model}_server", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    assert arguments[0] in done.stderr
    assert "Traceback" not in done.stderr
