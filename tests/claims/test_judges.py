"""Each judge, on traces of which the answer is known: both answers, and none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.claims.claim import Missing, Outcome
from analysis.claims.registry import CLAIMS
from tests.analysis.synthetic import PID, START_NS
from tests.claims.made import MS, Maker, call, delivery, judged, thread

HOLDS, NOT, OPEN = Outcome.HOLDS, Outcome.DOES_NOT_HOLD, Outcome.CANNOT_BE_TOLD
EAGAIN, EFAULT = -11, -14


def receive(**columns: Any) -> dict[str, Any]:
    return call("recvfrom", **{"socket": 1, "fd": 5, "bytes": 64, "copy_ns": 300} | columns)


# blocking and non-blocking


@pytest.mark.parametrize(
    ("asleep", "ready", "outcome"), [(100, 1, HOLDS), (10, 90, NOT), (9, 1, OPEN)]
)
def test_blocking_blocks_if_nearly_all_receives_slept_and_copied(
    make: Maker, asleep: int, ready: int, outcome: Outcome
) -> None:
    calls = [receive(sleep_ns=5 * MS)] * asleep + [receive()] * ready
    assert judged("blocking-blocks", {"blocking": [make(calls)]}).finding.outcome is outcome


def test_blocking_does_not_block_for_a_copy_that_another_makes(make: Maker) -> None:
    calls = [receive(sleep_ns=5 * MS, context="aio", tid=PID + 1)] * 100
    assert judged("blocking-blocks", {"blocking": [make(calls)]}).finding.outcome is NOT


def test_without_a_probe_for_the_copy_blocking_cannot_be_judged(make: Maker) -> None:
    trace = make([receive(sleep_ns=MS) | {"copy_ns": None}] * 100)
    verdict = judged("blocking-blocks", {"blocking": [trace]})
    assert verdict.finding.outcome is OPEN
    assert "no probe of this backend sees the copy" in verdict.finding.sentence


@pytest.mark.parametrize(("slept", "outcome"), [(0, HOLDS), (500, NOT), (5, OPEN)])
def test_a_non_blocking_call_never_sleeps_if_fewer_than_one_in_a_thousand_do(
    make: Maker, slept: int, outcome: Outcome
) -> None:
    calls = [call("recvfrom", spin_ns=700, result=EAGAIN)] * (5000 - slept)
    calls += [call("recvfrom", sleep_ns=MS, result=64)] * slept
    verdict = judged("nonblocking-never-sleeps", {"nonblocking": [make(calls)]})
    assert verdict.finding.outcome is outcome


@pytest.mark.parametrize(("copy_ns", "outcome"), [(300, HOLDS), (0, NOT)])
def test_a_non_blocking_receive_blocks_while_it_copies(
    make: Maker, copy_ns: int, outcome: Outcome
) -> None:
    trace = make([receive(copy_ns=copy_ns)] * 100)
    verdict = judged("nonblocking-copies", {"nonblocking": [trace]})
    assert verdict.finding.outcome is outcome


@pytest.mark.parametrize(
    ("polling_ms", "outcome"),
    [((900, 950, 990), HOLDS), ((20, 21, 22), NOT), ((20, 900, 300), OPEN)],
)
def test_polling_burns_cpu_if_it_takes_five_times_as_much(
    make: Maker, polling_ms: tuple[int, ...], outcome: Outcome
) -> None:
    polling = [
        make(threads=[thread(user_ns=ms * MS, sleep_ns=(1000 - ms) * MS)]) for ms in polling_ms
    ]
    blocking = [make(threads=[thread(user_ns=10 * MS, sleep_ns=990 * MS)]) for _ in range(3)]
    verdict = judged("polling-burns-cpu", {"nonblocking": polling, "blocking": blocking})
    assert verdict.finding.outcome is outcome


@pytest.mark.parametrize(("part", "outcome"), [(0.5, HOLDS), (0.0, NOT)])
def test_a_pause_adds_delay_if_the_wait_grows_with_it(
    make: Maker, part: float, outcome: Outcome
) -> None:
    def runs(pause_ms: int) -> list[Path]:
        waits = [20_000 + 1000 * run + int(part * pause_ms * MS) for run in range(3)]
        return [make(deliveries=[delivery(wait)] * 9) for wait in waits]

    traces = {"0": runs(0), "0.004": runs(4), "0.016": runs(16)}
    verdict = judged("pause-adds-delay", traces)
    assert verdict.finding.outcome is outcome
    assert verdict.finding.figures[0].estimate.value == pytest.approx(part, abs=0.01)


def test_the_wait_for_a_pause_cannot_be_judged_if_nobody_saw_data_arrive(make: Maker) -> None:
    traces = {label: [make()] * 3 for label in ("0", "0.004", "0.016")}
    assert judged("pause-adds-delay", traces).finding.outcome is OPEN


# multiplexing


def request(model: str, **phases: int) -> list[dict[str, Any]]:
    waiting = {"select": [call("pselect6", ready=1, nfds=6, **phases)], "blocking": []}
    return [*waiting[model], receive()]


def pair(make: Maker, select: str, p50: float, cpu_ms: int) -> dict[str, list[Path]]:
    def side(model: str, latency: float, cpu: int, run: int) -> Path:
        return make(
            [call("accept4"), *request(model) * 100],
            threads=[thread(user_ns=cpu * MS, sleep_ns=(1000 - cpu) * MS)],
            workload={"latency_ns": {"p50": latency * (1 + run / 1000), "mean": latency}},
        )

    return {
        "select": [side(select, p50, cpu_ms, run) for run in range(5)],
        "blocking": [side("blocking", 30_000.0, 10, -run) for run in range(5)],
    }


@pytest.mark.parametrize(("model", "outcome"), [("select", HOLDS), ("blocking", NOT)])
def test_select_needs_two_calls_if_each_request_has_two(
    make: Maker, model: str, outcome: Outcome
) -> None:
    assert judged("select-two-calls", pair(make, model, 3e4, 10)).finding.outcome is outcome


@pytest.mark.parametrize(
    ("p50", "cpu_ms", "outcome"), [(33e3, 14, HOLDS), (15e3, 14, NOT), (33e3, 7, NOT)]
)
def test_select_is_not_faster_if_it_takes_longer_and_costs_more(
    make: Maker, p50: float, cpu_ms: int, outcome: Outcome
) -> None:
    traces = pair(make, "select", p50, cpu_ms)
    assert judged("select-not-faster", traces).finding.outcome is outcome


@pytest.mark.parametrize(("name", "outcome"), [("epoll_wait", HOLDS), ("poll", NOT)])
def test_selectors_picks_epoll_if_it_waits_in_nothing_else(
    make: Maker, name: str, outcome: Outcome
) -> None:
    trace = make([call("epoll_wait", ready=1)] * 3 + [call(name, ready=1)])
    assert judged("selectors-picks-epoll", {"selectors": [trace]}).finding.outcome is outcome


# descriptors


def scans(make: Maker, model: str, per_descriptor: float) -> dict[str, list[Path]]:
    waiting = {"select": "pselect6", "poll": "poll", "epoll": "epoll_wait"}[model]

    def run(idle: int, repetition: int) -> Path:
        check = 1000 + 5 * repetition + round(per_descriptor * (idle + 2))
        disturbed = call(waiting, ready=1, check_ns=3 * MS)
        return make(
            [call(waiting, ready=1, check_ns=check)] * 9 + [disturbed], workload={"idle": idle}
        )

    return {f"{model} {idle}": [run(idle, r) for r in range(2)] for idle in (0, 400, 900)}


@pytest.mark.parametrize("model", ["select", "poll"])
@pytest.mark.parametrize(("cost", "outcome"), [(50.0, HOLDS), (-0.5, NOT), (0.0, OPEN)])
def test_a_model_pays_per_descriptor_if_its_check_rises(
    make: Maker, model: str, cost: float, outcome: Outcome
) -> None:
    verdict = judged(f"{model}-pays-per-descriptor", scans(make, model, cost))
    assert verdict.finding.outcome is outcome
    assert verdict.finding.figures[0].estimate.value == pytest.approx(cost, abs=0.5)


def costing(make: Maker, *cpu_ms: int) -> list[Path]:
    """Make five runs of 100 requests that took so much CPU time in turn."""
    return [
        make(threads=[thread(user_ns=ms * MS + run, sleep_ns=1000 * MS - ms * MS - run)])
        for run, ms in enumerate(cpu_ms)
    ]


@pytest.mark.parametrize(
    ("poll", "outcome"),
    [((8, 8, 8, 8, 8), HOLDS), ((20, 21, 20, 20, 21), NOT), ((4, 20, 5, 19, 10), OPEN)],
)
def test_poll_is_cheaper_than_select_if_a_request_takes_less_cpu_time(
    make: Maker, poll: tuple[int, ...], outcome: Outcome
) -> None:
    traces = {"poll 900": costing(make, *poll), "select 900": costing(make, *[10] * 5)}
    assert judged("poll-cheaper-than-select", traces).finding.outcome is outcome


@pytest.mark.parametrize(("edge", "outcome"), [(8, HOLDS), (12, NOT)])
def test_edge_triggered_is_faster_if_a_request_takes_less_cpu_time(
    make: Maker, edge: int, outcome: Outcome
) -> None:
    traces = {"edge": costing(make, *[edge] * 5), "level": costing(make, *[10] * 5)}
    assert judged("edge-triggered-faster", traces).finding.outcome is outcome


@pytest.mark.parametrize(("cost", "outcome"), [(0.1, HOLDS), (40.0, NOT)])
def test_epoll_pays_once_if_a_descriptor_costs_next_to_nothing(
    make: Maker, cost: float, outcome: Outcome
) -> None:
    traces = scans(make, "select", 50.0) | scans(make, "epoll", cost)
    assert judged("epoll-pays-once", traces).finding.outcome is outcome


@pytest.mark.parametrize(
    ("select", "epoll", "outcome"), [(1020, 1103, HOLDS), (1103, 1103, NOT), (1020, 800, OPEN)]
)
def test_select_stops_at_1024_if_it_alone_leaves_clients_unserved(
    make: Maker, select: int, epoll: int, outcome: Outcome
) -> None:
    def run(served: int, name: str) -> list[Path]:
        counters = {"refused": 1103 - served} if served < 1103 else {}
        workload = {"connections_served": served, "server": counters}
        return [make([call(name, ready=1, nfds=served + 4)], workload=workload)]

    traces = {
        "select": run(select, "pselect6"),
        "poll": run(1103, "poll"),
        "epoll": run(epoll, "epoll_wait"),
        "kernel": [make(seen={"nfds": 1501, "ready": 1})],
    }
    assert judged("select-stops-at-1024", traces).finding.outcome is outcome


# epoll


@pytest.mark.parametrize(("registered", "outcome"), [(401, HOLDS), (402, HOLDS), (1009, NOT)])
def test_epoll_registers_once_if_there_are_no_more_registrations_than_sockets(
    make: Maker, registered: int, outcome: Outcome
) -> None:
    trace = make(
        [call("epoll_wait", ready=1)] * 1009,
        threads=[thread(epoll_level=registered)],
        workload={"idle": 400},
    )
    assert judged("epoll-registers-once", {"epoll": [trace]}).finding.outcome is outcome


def test_a_trace_without_the_count_of_registrations_tells_nothing_of_them(make: Maker) -> None:
    trace = make([call("epoll_wait", ready=1)] * 1009, workload={"idle": 400})
    assert judged("epoll-registers-once", {"epoll": [trace]}).finding.outcome is OPEN


@pytest.mark.parametrize(
    ("notifier", "outcome"), [("ep_poll_callback", HOLDS), ("none", NOT), (None, OPEN)]
)
def test_epoll_is_called_back_if_arrivals_run_its_callback(
    make: Maker, notifier: str | None, outcome: Outcome
) -> None:
    known: dict[str, Any] = {"notify_ns": 500, "callback_ns": 300, "notifier": notifier}
    known = known if notifier else {}
    trace = make(deliveries=[delivery(20_000, **known)] * 100)
    verdict = judged("epoll-calls-back", {"epoll": [trace]})
    assert verdict.finding.outcome is outcome
    assert ("iophase lab" in verdict.finding.sentence) == (notifier is None)


def waits(fd: int, *ready: int) -> list[dict[str, Any]]:
    return [call("epoll_wait", fd=fd, ready=number, result=number) for number in ready]


@pytest.mark.parametrize(
    ("edge_again", "level_again", "outcome"), [(0, 1, HOLDS), (1, 1, NOT), (0, 0, OPEN)]
)
def test_edge_triggered_tells_once_if_only_level_triggered_tells_again(
    make: Maker, edge_again: int, level_again: int, outcome: Outcome
) -> None:
    rounds = [*waits(3, 1, edge_again), *waits(6, 1, level_again)] * 20
    trace = make(rounds, seen={"rounds": 20, "edge_fd": 3, "level_fd": 6})
    assert judged("edge-triggered-once", {"trial": [trace]}).finding.outcome is outcome


@pytest.mark.parametrize(
    ("mapped", "error", "fails", "outcome"),
    [(0, "ENODEV", 20, NOT), (1, "ENODEV", 20, HOLDS), (0, None, 20, HOLDS), (0, "EPERM", 3, OPEN)],
)
def test_epoll_shares_memory_if_its_descriptor_is_mapped_or_can_be(
    make: Maker, mapped: int, error: str | None, fails: int, outcome: Outcome
) -> None:
    refused = [call("epoll_wait", fd=6, result=EFAULT)] * fails
    trial = make([*refused, *waits(6, *[1] * 20)], seen={"rounds": 20, "mmap_error": error})
    server = make(seen={"mappings": {"anon_inode:[eventpoll]": mapped}})
    ring = make(seen={"mappings": {"anon_inode:[io_uring]": 2}})
    traces = {"trial": [trial], "epoll": [server], "io_uring": [ring]}
    verdict = judged("epoll-shares-memory", traces)
    assert verdict.finding.outcome is outcome
    assert "(an io_uring: 2 times)" in verdict.finding.sentence


def test_the_memory_of_epoll_is_judged_where_there_is_no_io_uring(make: Maker) -> None:
    refused = [call("epoll_wait", fd=6, result=EFAULT)] * 20
    trial = make([*refused, *waits(6, *[1] * 20)], seen={"rounds": 20, "mmap_error": "ENODEV"})
    traces: dict[str, list[Path] | Missing] = {
        "trial": [trial],
        "epoll": [make(seen={"mappings": {}})],
        "io_uring": Missing("not on this host: needs Linux 5.7", failed=False),
    }
    verdict = judged("epoll-shares-memory", traces)
    assert (verdict.finding.outcome, verdict.failed) == (NOT, False)


# many connections


def burst(make: Maker, apart: bool, bursts: int = 10, clients: int = 4) -> Path:
    """Make bursts of one request of 2 ms per client, by one thread, or by one for each."""
    calls, data = [], []
    for number in range(bursts):
        ready = START_NS + number * 100 * MS
        for place in range(clients):
            handled = ready if apart else ready + place * 2 * MS
            own: dict[str, Any] = {"tid": PID + place} if apart else {}
            calls.append(receive(socket=place, ts_ns=handled + 10_000, **own))
            data.append(delivery(handled - ready + 10_300, place, ready_ns=ready, **own))
    return make(calls, data)


def crowds(make: Maker, apart: bool, runs: int) -> list[Path]:
    """Make runs of 16 clients that all ask at once."""
    return [burst(make, apart, bursts=1, clients=16) for _ in range(runs)]


@pytest.mark.parametrize(("apart", "outcome"), [(False, HOLDS), (True, NOT)])
def test_threads_isolate_if_without_them_the_first_data_waits_for_that_of_others(
    make: Maker, apart: bool, outcome: Outcome
) -> None:
    traces = {"blocking": crowds(make, apart, 3), "threads": crowds(make, True, 3)}
    assert judged("threads-isolate", traces).finding.outcome is outcome


@pytest.mark.parametrize(
    ("kib", "switches", "outcome"), [(20, 300, HOLDS), (0, 300, NOT), (20, 20, NOT)]
)
def test_threads_cost_if_they_take_memory_and_switches(
    make: Maker, kib: int, switches: int, outcome: Outcome
) -> None:
    def memory(rss_kib: int) -> list[Path]:
        return [make(seen={"rss_kib": rss_kib}) for _ in range(3)]

    def busy(count: int) -> list[Path]:
        counts = {"voluntary_switches": count, "involuntary_switches": 0}
        return [make(threads=[thread(**counts)]) for _ in range(3)]

    traces = {
        "threads alone": memory(15_000),
        "threads silent": memory(15_000 + 400 * (2 + kib)),
        "epoll alone": memory(15_000),
        "epoll silent": memory(15_000 + 400 * 2),
        "threads busy": busy(switches),
        "epoll busy": busy(50),
    }
    assert judged("threads-cost", traces).finding.outcome is outcome


@pytest.mark.parametrize(
    ("pooled", "apart", "response", "outcome"),
    [(False, True, 1.1, HOLDS), (False, True, 0.2, NOT), (True, False, 1.1, NOT)],
)
def test_a_pool_is_no_better_if_neither_kind_of_client_is_answered_sooner(
    make: Maker, pooled: bool, apart: bool, response: float, outcome: Outcome
) -> None:
    def passing(mean: float) -> list[Path]:
        return [make(workload={"latency_ns": {"mean": mean * (1 + r / 1e3)}}) for r in range(5)]

    traces = {
        "pool": crowds(make, pooled, 5),
        "threads": crowds(make, apart, 5),
        "pool passing": passing(response * 5e6),
        "threads passing": passing(5e6),
    }
    assert judged("pool-no-better", traces).finding.outcome is outcome


@pytest.mark.parametrize(("apart", "outcome"), [(False, HOLDS), (True, NOT)])
def test_a_handler_stalls_the_loop_if_data_waits_for_the_handlers_of_others(
    make: Maker, apart: bool, outcome: Outcome
) -> None:
    traces = {
        "epoll": [burst(make, apart) for _ in range(3)],
        "processes": [burst(make, True) for _ in range(3)],
    }
    assert judged("handler-stalls-loop", traces).finding.outcome is outcome


# asynchronous


@pytest.mark.parametrize(
    ("asks", "copies", "outcome"),
    [
        ({}, {"context": "iou-sqp", "tid": PID + 1}, HOLDS),
        ({}, {"context": "aio", "tid": PID + 1}, HOLDS),
        ({}, {"context": "task-work"}, NOT),
        ({"sleep_ns": 5 * MS}, {"context": "iou-sqp", "tid": PID + 1}, NOT),
        ({"sleep_ns": 5 * MS}, {"context": "process"}, NOT),
    ],
)
@pytest.mark.parametrize("interface", ["posix-aio", "native-aio", "io_uring", "io_uring-sqpoll"])
def test_asynchronous_io_blocks_in_neither_phase_if_the_asking_thread_neither_sleeps_nor_copies(
    make: Maker, interface: str, asks: dict[str, Any], copies: dict[str, Any], outcome: Outcome
) -> None:
    rounds = [call("io_uring_enter", **asks), receive(**copies)] * 41
    begin = call("read", fd=0, sleep_ns=100 * MS, bytes=3, copy_ns=None)  # of no socket
    trace = make([begin, *rounds], seen={"rounds": 41})
    verdict = judged(f"{interface}-never-blocks", {"trial": [trace]})
    assert verdict.finding.outcome is outcome


# whatever the claim


@pytest.mark.parametrize("name", [claim.name for claim in CLAIMS])
def test_no_claim_is_judged_by_experiments_that_were_not_run(name: str) -> None:
    verdict = judged(name, {})
    assert (verdict.finding.outcome, verdict.failed) == (OPEN, True)


def test_a_model_that_this_host_lacks_is_no_failure() -> None:
    missing = Missing("not on this host: needs Linux 5.11", failed=False)
    verdict = judged("io_uring-sqpoll-never-blocks", {"trial": missing})
    assert (verdict.finding.outcome, verdict.failed) == (OPEN, False)
    assert verdict.finding.sentence == "not on this host: needs Linux 5.11"


def test_a_trace_with_losses_backs_no_verdict(make: Maker) -> None:
    trace = make([receive(sleep_ns=MS)] * 100, lost=7)
    verdict = judged("blocking-blocks", {"blocking": [trace]})
    assert verdict.finding.outcome is OPEN
    assert "lost 7 events" in verdict.finding.sentence


def test_a_verdict_names_the_traces_that_back_it(make: Maker) -> None:
    trace = make([receive(sleep_ns=MS)] * 100)
    assert judged("blocking-blocks", {"blocking": [trace]}).traces == (trace,)
