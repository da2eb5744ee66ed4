"""What only function probes see, and what they must not be misled by."""

from __future__ import annotations

import select
from pathlib import Path

import pytest

from probes.catalogue import system_call_symbol
from probes.plan import Backend
from probes.program import Program
from servers.models import by_name
from tests.live import libc
from tests.live.recording import assert_closed, is_attached, record, total
from tests.live.target import asleep, tcp_pair
from tests.matrix.workloads import PAUSE_NS, beside_idle, paused

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

TIMES = 13
WAITS = 31
CROWD = (0, 100, 500, 1000)
ROUNDS = 8
WAITS_INSIDE = ("poll", "epoll_wait", "io_getevents")
NOTIFIER = {
    "blocking": "none",
    "poll": "pollwake",
    "epoll-et": "ep_poll_callback",
    "sigio": "send_sigio",
    "native-aio-poll": "aio_poll_wake",
    "io_uring-poll": "io_poll_wake",
}


@pytest.fixture(autouse=True)
def only_function_probes(backend: Backend) -> None:
    if backend == "tracepoint":
        pytest.skip("tracepoints alone do not see it")


def hits(trace: object, symbol: str) -> int:
    (state,) = [p for p in trace.meta["probes"] if p["name"] == symbol]  # type: ignore[attr-defined]
    return int(state["hits"] or 0)


@pytest.mark.parametrize("way", ["select", "pselect6"])
def test_the_system_call_select_and_that_of_glibc_become_the_same_phases(
    way: str, program: Program, tmp_path: Path
) -> None:
    left, right = tcp_pair()

    def wait() -> None:
        for _ in range(TIMES):
            right.send(b".")
            if way == "select":
                libc.select(right.fileno())
            else:
                select.select([right], [], [])
            right.recv(1)

    def send(target: object) -> None:
        for _ in range(TIMES):
            left.recv(1)
            asleep(target.pid)  # type: ignore[attr-defined]
            left.send(b"x")

    with left, right:
        trace, _ = record(program, tmp_path / "trace", wait, send)
    other = {"select": "pselect6", "pselect6": "select"}[way]
    assert hits(trace, system_call_symbol(way)) == TIMES
    assert hits(trace, system_call_symbol(other)) == 0
    assert hits(trace, "core_sys_select") == hits(trace, "do_select") == TIMES
    rows = trace.calls[trace.calls["call"] == way]
    assert len(rows) == TIMES
    assert (rows["sleep_ns"] > 0).sum() >= TIMES - 2  # unless it is woken just before it sleeps
    assert (rows["check_ns"] > 0).all()
    assert (rows["function_ns"] <= rows["duration_ns"]).all()
    assert (rows["check_copy_ns"] < rows["check_ns"]).all()
    assert (trace.deliveries["notifier"] == "pollwake").all()
    assert (trace.deliveries["callback_ns"] <= trace.deliveries["notify_ns"]).all()
    assert_closed(trace)


def quickest_check(program: Program, path: Path, call: str, idle: int) -> int:
    """Return the ``check`` in ns of the wait that nobody has interrupted."""
    name = {"select": "pselect6", "poll": "poll", "epoll": "epoll_wait"}[call]
    trace = beside_idle(program, path / f"{call}-{idle}", call, idle, WAITS)
    rows = trace.calls[trace.calls["call"] == name]
    assert len(rows) == WAITS
    assert_closed(trace)
    return int(rows["check_ns"].min())


def in_proportion(check: dict[int, int]) -> bool:
    """Say whether what ``check`` grows by is in proportion to the idle sockets."""
    grown = {idle: check[idle] - check[0] for idle in CROWD}
    return (
        grown[1000] > 3 * check[0]
        and 1.4 < grown[1000] / grown[500] < 2.8
        and 2.5 < grown[500] / grown[100] < 10.0
    )


@pytest.mark.parametrize("call", ["select", "poll"])
def test_check_of_select_and_poll_grows_in_proportion_to_the_idle_set(
    call: str, program: Program, tmp_path: Path
) -> None:
    """An emulator can be slow for as long as a round of waits takes, but never too quick."""
    check = dict.fromkeys(CROWD, 1 << 62)
    for number in range(ROUNDS):
        for idle in CROWD:
            quickest = quickest_check(program, tmp_path / str(number), call, idle)
            check[idle] = min(check[idle], quickest)
        if in_proportion(check):
            return
    pytest.fail(f"not in proportion: {check}")


def test_check_of_epoll_does_not_grow_with_the_idle_set(program: Program, tmp_path: Path) -> None:
    """It stays as it is to within a tenth of what the same sockets cost poll."""
    check = [quickest_check(program, tmp_path, "epoll", idle) for idle in CROWD]
    poll = [quickest_check(program, tmp_path, "poll", idle) for idle in (0, CROWD[-1])]
    assert max(check) - min(check) < (poll[1] - poll[0]) / 10, (check, poll)


def test_ep_poll_callback_runs_once_for_each_arrival_and_never_for_idle_sockets(
    program: Program, tmp_path: Path
) -> None:
    trace = beside_idle(program, tmp_path / "trace", "epoll", 100, TIMES)
    assert len(trace.deliveries) == TIMES
    assert hits(trace, "ep_poll_callback") == TIMES
    assert (trace.deliveries["notifier"] == "ep_poll_callback").all()
    assert (trace.deliveries["callback_ns"] > 0).all()
    assert (trace.deliveries["callback_ns"] <= trace.deliveries["notify_ns"]).all()
    assert hits(trace, "pollwake") == 0
    waits = trace.calls[trace.calls["call"] == "epoll_wait"]
    if is_attached(trace, "ep_send_events"):
        assert (waits["check_copy_ns"] > 0).all()
        assert (waits["check_copy_ns"] < waits["check_ns"]).all()
    else:
        assert waits["check_copy_ns"].isna().all()


@pytest.mark.parametrize("model", NOTIFIER)
def test_each_way_of_waiting_is_told_by_its_own_callback(
    model: str, program: Program, tmp_path: Path
) -> None:
    if (reason := by_name(model).missing()) is not None:
        pytest.skip(reason)
    trace, pauses = paused(program, tmp_path / "trace", model, 2, sleeps=True)
    told = trace.deliveries.iloc[-len(pauses) :]
    assert (told["notifier"] == NOTIFIER[model]).all()
    # Loopback delivers within the call of the sender, unless ksoftirqd is left to do it.
    assert told["waker_context"].isin(["process", "ksoftirqd"]).all()
    assert (told["notify_ns"] > 0).all()
    assert ((told["callback_ns"] > 0) == (NOTIFIER[model] != "none")).all()
    assert (told["callback_ns"] <= told["notify_ns"]).all()
    # The first may have begun before the trace, the last has not ended with it.
    waits = trace.calls[trace.calls["call"].isin(WAITS_INSIDE)].iloc[1:-1]
    assert waits["function_ns"].notna().all()


def test_a_blocking_receive_of_50_ms_is_a_wait_inside_tcp_recvmsg_and_not_a_copy(
    program: Program, tmp_path: Path
) -> None:
    trace, pauses = paused(program, tmp_path / "trace", "blocking", 3, sleeps=True)
    receives = trace.calls[trace.calls["call"] == "recvfrom"]
    slow = receives[receives["function_ns"] >= PAUSE_NS]
    assert len(slow) == len(pauses)
    assert slow["copy_ns"].median() < PAUSE_NS / 50  # the machine may do something else meanwhile
    assert (slow["sleep_ns"] >= PAUSE_NS).all()
    assert (slow["function_ns"] <= slow["duration_ns"]).all()
    assert total(trace.deliveries["notify_ns"]) > 0
    assert (trace.deliveries["notifier"] == "none").all()
