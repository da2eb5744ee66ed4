"""Each reference server is recognised: from its start, and when it was running already."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.load import load
from analysis.recognition import Answer, recognise
from probes.program import Program
from servers.load import Load, LoadOptions
from servers.models import MODELS, by_name
from tests.live.recording import recording
from tracer.reference import ReferenceServer

pytestmark = pytest.mark.live

CONNECTIONS = 3
MESSAGES = 211

RECOGNISED = {
    "blocking": "blocking",
    "threads": "blocking",
    "processes": "blocking",
    "thread-pool": "blocking",
    "process-pool": "blocking",
    "nonblocking": "non-blocking",
    "nonblocking-nap": "non-blocking",
    "select": "select",
    "poll": "poll",
    "epoll": "epoll level-triggered",
    "epoll-et": "epoll edge-triggered",
    "epoll-oneshot": "epoll one-shot",
    "selectors": "epoll level-triggered",
    "sigio": "signal-driven",
    "sigtimedwait": "signal-driven",
    "posix-aio": "POSIX AIO",
    "native-aio": "native AIO",
    "native-aio-poll": "native AIO poll",
    "io_uring": "io_uring",
    "io_uring-poll": "io_uring poll",
    "io_uring-multishot": "io_uring",
    "io_uring-workers": "io_uring",
    "io_uring-sqpoll": "io_uring SQPOLL",
    "asyncio": "epoll level-triggered",
    "uvloop": "epoll level-triggered",
    "gevent": "epoll level-triggered",
}

STANDING = ("blocking", "epoll", "epoll-et", "sigio", "posix-aio", "io_uring")


def answers(program: Program, path: Path, model: str, *, late: bool) -> list[Answer]:
    """Return what is recognised of a server, traced before or after its clients connect."""
    options = LoadOptions(connections=CONNECTIONS, messages=MESSAGES)
    with ReferenceServer(by_name(model)) as server, Load(server.address, options) as clients:
        if late:
            clients.connect()
        with recording(program, path) as session:
            session.follow([server.pid])
            if not late:
                clients.connect()
            clients.run()
    return [answer for answer in recognise(load(path)) if answer.tids]


def decisive(found: list[Answer], trace: Path) -> set[str]:
    """Return the models of those threads that received something, or whose kernel helper did."""
    received = load(trace).threads.set_index("tid")["bytes"]
    return {
        answer.model for answer in found if any(received.get(tid, 0) > 0 for tid in answer.tids)
    }


@pytest.mark.parametrize("model", [model.name for model in MODELS])
def test_the_model_of_a_reference_server_is_recognised(
    program: Program, tmp_path: Path, model: str
) -> None:
    if missing := by_name(model).missing():
        pytest.skip(missing)
    trace = tmp_path / model
    found = answers(program, trace, model, late=False)
    assert decisive(found, trace) == {RECOGNISED[model]}, found
    assert all(answer.evidence for answer in found)


@pytest.mark.parametrize("model", STANDING)
def test_it_is_recognised_when_its_clients_were_there_before(
    program: Program, tmp_path: Path, model: str
) -> None:
    if missing := by_name(model).missing():
        pytest.skip(missing)
    trace = tmp_path / model
    found = answers(program, trace, model, late=True)
    # of a helper thread that sleeps in its only read nobody can tell whose it is
    others = {"blocking"} if model == "posix-aio" else set()
    assert decisive(found, trace) - others == {RECOGNISED[model]}, found


def test_sockets_that_were_open_before_have_their_addresses(
    program: Program, tmp_path: Path
) -> None:
    trace = tmp_path / "idle"
    options = LoadOptions(connections=1, idle=4, messages=7)
    with ReferenceServer(by_name("epoll")) as server, Load(server.address, options) as clients:
        clients.connect()
        with recording(program, trace) as session:
            session.follow([server.pid])
            clients.run()
        local = server.address
    sockets = load(trace).sockets
    assert not sockets["socket"].duplicated().any()
    ours = sockets[sockets["local"] == local]
    assert ours["remote"].notna().sum() == 5
    assert (ours["protocol"] == "tcp").all()
