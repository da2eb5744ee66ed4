"""A thousand silent clients and ten busy ones, at every server that can hold them."""

import contextlib
import resource
from collections.abc import Iterator

import pytest

from servers.models import MODELS, Model
from tests.servers.client import Server, payload, receive, suffix

SILENT, BUSY, ROUNDS = 1000, 10, 7
MANY = [model for model in MODELS if model.connections is None]


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """Raise the limit of descriptors as far as this user may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < SILENT + 2 * BUSY:
        pytest.skip(f"only {hard} descriptors are allowed, ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("model", MANY, ids=lambda model: model.name)
def test_a_thousand_silent_clients_do_not_keep_ten_from_being_served(model: Model) -> None:
    if (reason := model.missing()) is not None:
        pytest.skip(f"{model.name}: {reason}")
    with Server(model.module) as server, contextlib.ExitStack() as connections:
        for _ in range(SILENT):
            connections.enter_context(server.connect())
        busy = [connections.enter_context(server.connect()) for _ in range(BUSY)]
        for _ in range(ROUNDS):
            for connection in busy:
                connection.sendall(payload(64))
            for connection in busy:
                expected = payload(64).upper() + suffix(model)
                assert receive(connection, len(expected)) == expected
        counters = server.stop()
        assert server.errors == ""
    assert counters["connections"] == SILENT + BUSY
    assert counters["messages"] == BUSY * ROUNDS
