"""Every reference server, over real sockets: exact echoes, exact counters, unkind clients."""

import importlib
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from servers.models import FAMILIES, MODELS, Model, by_name
from tests.servers.client import (
    PATIENCE_S,
    ROOT,
    Server,
    alive,
    descriptors,
    payload,
    receive,
    receive_all,
    reset,
    suffix,
    taken_port,
    within,
)
from tests.servers.soak import misbehave

# A prime number of messages for each size: one segment, one receive, several receives.
MESSAGES = {64: 101, 4096: 53, 200_000: 7}


def skip_unless_supported(model: Model) -> None:
    if (reason := model.missing()) is not None:
        pytest.skip(f"{model.name}: {reason}")


@pytest.fixture(params=MODELS, ids=lambda model: model.name)
def model(request: pytest.FixtureRequest) -> Model:
    found: Model = request.param
    skip_unless_supported(found)
    return found


@pytest.fixture
def server(model: Model) -> Iterator[Server]:
    with Server(model.module) as running:
        yield running


def echo(connection: socket.socket, model: Model, size: int) -> None:
    """Exchange one message that arrives in one piece, and check the answer."""
    connection.sendall(payload(size))
    assert receive(connection, size + len(suffix(model))) == payload(size).upper() + suffix(model)


def test_every_message_is_answered_and_counted(model: Model, server: Server) -> None:
    with server.connect() as connection:
        for size, count in MESSAGES.items():
            for _ in range(count):
                connection.sendall(payload(size))
                if suffix(model):
                    answer = b""
                    while len(answer.replace(b"_SB", b"")) < size or not answer.endswith(b"_SB"):
                        answer += connection.recv(1 << 20)
                    assert answer.replace(b"_SB", b"") == payload(size).upper()
                else:
                    assert receive(connection, size) == payload(size).upper()
    counters = server.stop()
    assert counters["connections"] == 1
    assert counters["bytes_received"] == sum(size * n for size, n in MESSAGES.items())
    # Large messages come in as many receives as the kernel makes of them, small ones in one.
    small = MESSAGES[64] + MESSAGES[4096]
    assert small + MESSAGES[200_000] <= counters["messages"] <= small + 7 * 200
    assert server.errors == ""


def test_half_closed_client_still_gets_every_answer(model: Model, server: Server) -> None:
    message = payload(16_000_000)  # more than the socket buffers of both sides hold
    with server.connect() as connection:

        def send() -> None:
            connection.sendall(message)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        time.sleep(0.05)  # the server's send buffer fills before the client begins to read
        answer = receive_all(connection)
        sender.join()
    assert answer.replace(b"_SB", b"") == message.upper()


def test_unkind_clients_do_not_disturb_the_others(model: Model, server: Server) -> None:
    with server.connect() as gone:
        echo(gone, model, 64)
    for _ in range(3):
        connection = server.connect()
        connection.sendall(payload(100_000))  # its answer meets the reset
        reset(connection)
    reset(server.connect())
    server.connect().close()
    if model.connections != 1:
        silent = server.connect()
        unread = server.connect()
        unread.sendall(payload(100_000))
    with server.connect() as connection:
        for _ in range(5):
            echo(connection, model, 64)
        before = descriptors(server.process.pid)
        if model.connections != 1:
            for _ in range(10):
                reset(server.connect())
            echo(connection, model, 64)
            assert within(2, lambda: descriptors(server.process.pid) <= before)
    if model.connections != 1:
        silent.close()
        unread.close()
    server.stop()
    assert server.errors == ""


def test_more_clients_than_the_listen_queue_holds(model: Model) -> None:
    failures: list[BaseException] = []

    def client(server: Server) -> None:
        try:
            with server.connect() as connection:
                for _ in range(3):
                    echo(connection, model, 64)
        except BaseException as error:
            failures.append(error)

    with Server(model.module, "--backlog", "5") as server:
        clients = [threading.Thread(target=client, args=(server,)) for _ in range(12)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        assert not failures
        counters = server.stop()
    assert (counters["connections"], counters["messages"]) == (12, 36)


@pytest.mark.parametrize("family", FAMILIES)
def test_servers_stand_clients_that_misbehave_in_every_way(family: str) -> None:
    able = [model for model in MODELS if model.family == family and model.missing() is None]
    with ThreadPoolExecutor(len(able)) as pool:
        for model, (_, troubles) in zip(
            able, pool.map(lambda model: misbehave(model, seconds=0), able), strict=True
        ):
            assert troubles == [], model.name


def test_stops_on_sigterm_with_exact_counters_and_leaves_no_process(
    model: Model, server: Server
) -> None:
    with server.connect() as connection:
        for _ in range(101):
            echo(connection, model, 64)
        children = server.descendants()
        started = time.monotonic()
        counters = server.stop()
        assert time.monotonic() - started < 2
    assert (counters["messages"], counters["bytes_received"]) == (101, 101 * 64)
    assert within(2, lambda: not any(map(alive, children)))


def test_a_port_in_use_is_one_clear_line(model: Model) -> None:
    with taken_port() as port:
        done = subprocess.run(
            [sys.executable, "-m", model.module, "--port", str(port)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert "Address already in use" in done.stderr


def test_work_burns_cpu_time_for_each_message(model: Model) -> None:
    work_us, messages = 2000, 11
    with Server(model.module, "--work", str(work_us)) as server, server.connect() as connection:
        started = time.monotonic()
        for _ in range(messages):
            echo(connection, model, 64)
        assert time.monotonic() - started >= messages * work_us / 1e6
        server.stop()


def test_a_server_file_runs_alone_as_a_script_from_anywhere(model: Model, tmp_path: Path) -> None:
    script = ROOT / f"{model.module.replace('.', '/')}.py"
    with Server(script, cwd=tmp_path) as server:
        with server.connect() as connection:
            echo(connection, model, 64)
        server.stop()
        assert server.errors == ""


def test_a_server_file_says_what_waits_what_copies_what_blocks_and_where_to_read_on(
    model: Model,
) -> None:
    text = importlib.import_module(model.module).__doc__ or ""
    for word in ("Waits in", "Copies in", "Blocked"):
        assert text.count(f"\n{word:11}") == 1
    assert re.search(r"\b\w+\([23]\)[^.]*$", text), "man pages come last"


def test_no_file_hides_a_standard_module_from_a_script_beside_it() -> None:
    names = {path.stem for path in (ROOT / "servers").glob("*.py")}
    assert names & sys.stdlib_module_names == set()


def test_select_refuses_descriptors_beyond_1024_with_the_reason() -> None:
    with Server("servers.select_server") as server:
        clients = [server.connect() for _ in range(1030)]
        echo(clients[0], by_name("select"), 64)
        assert clients[-1].recv(1) == b""  # turned away
        for client in clients:
            client.close()
        counters = server.stop()
    assert counters["refused"] > 0
    assert counters["connections"] + counters["refused"] == 1030
    assert server.errors.count("\n") == 1
    assert "fd_set of 1024" in server.errors


def test_models_are_grouped_by_family_and_have_servers() -> None:
    assert len({model.name for model in MODELS}) == len(MODELS)
    assert [model.family for model in MODELS] == sorted(
        (model.family for model in MODELS), key=FAMILIES.index
    )
    for model in MODELS:
        assert (ROOT / model.module.replace(".", "/")).with_suffix(".py").exists()


def test_an_unknown_model_is_named_with_those_there_are() -> None:
    with pytest.raises(KeyError, match="no I/O model 'kqueue'; there are blocking, "):
        by_name("kqueue")
