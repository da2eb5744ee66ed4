"""What is concluded from which evidence, and what is not."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.evidence import added, gather
from analysis.recognition import answers
from analysis.schema import CALLS, PHASE_COLUMNS

PID = 700
EAGAIN = -11


def calls(*rows: dict[str, Any]) -> pd.DataFrame:
    """Return rows of calls.csv, in order of time; what is not given is unknown."""
    complete = [
        {"ts_ns": at * 1000, "duration_ns": 500, "pid": PID, "tid": PID, "context": "process"}
        | dict.fromkeys(PHASE_COLUMNS, 0)
        | row
        for at, row in enumerate(rows)
    ]
    frame = pd.DataFrame(complete).reindex(columns=list(CALLS.columns))
    integers = [name for name, kind in CALLS.columns.items() if kind.startswith("int")]
    return frame.astype(dict.fromkeys(integers, "Int64"))


def threads(**interests: int) -> pd.DataFrame:
    return pd.DataFrame([{"pid": PID, "tid": PID, "comm": "server", **interests}])


def receive(count: int, socket: int = 7, **more: Any) -> dict[str, Any]:
    got = max(count, 0)
    return {"call": "recvfrom", "socket": socket, "result": count, "bytes": got, **more}


def wait(call: str, ready: int = 1, **more: Any) -> dict[str, Any]:
    return {"call": call, "ready": ready, "result": ready, "sleep_ns": 400, **more}


def models(frame: pd.DataFrame, **interests: int) -> list[str]:
    return [answer.model for answer in answers(gather(frame), threads(**interests))]


def test_a_receive_that_sleeps_is_blocking() -> None:
    assert models(calls(receive(64, sleep_ns=300))) == ["blocking"]


def test_receives_that_always_find_data_tell_nothing() -> None:
    found = answers(gather(calls(receive(64), receive(64))), threads())
    assert [answer.model for answer in found] == ["unknown"]
    assert found[0].evidence == ("2 receives found data at once: none waited, none failed",)


def test_the_trigger_of_an_epoll_that_was_set_up_unseen_is_unknown() -> None:
    frame = calls(wait("epoll_wait"), receive(64))
    assert models(frame) == ["epoll"]
    standing = [{"pid": PID, "epoll_level": 1, "epoll_edge": 4, "epoll_oneshot": 0}]
    found = answers(gather(frame), threads(), standing)
    assert [answer.model for answer in found] == ["epoll edge-triggered"]
    assert "4 of 5 epoll_ctl on sockets with EPOLLET" in found[0].evidence


def test_a_wait_for_signals_is_signal_driven_only_if_a_socket_sends_them() -> None:
    frame = calls(wait("rt_sigsuspend", ready=-4), receive(64), receive(EAGAIN))
    assert models(frame, sigio_sockets=1) == ["signal-driven"]
    assert "signal-driven" not in models(frame)


def test_who_waits_for_signals_and_receives_nothing_is_not_signal_driven() -> None:
    """As the master of nginx, which has a socket with O_ASYNC to its workers."""
    found = answers(gather(calls(wait("rt_sigsuspend", ready=-4))), threads(sigio_sockets=1))
    assert [answer.model for answer in found] == ["unknown"]
    assert found[0].evidence == ("1 wait for signals", "1 socket with O_ASYNC", "no receive")


def test_one_thread_that_does_two_things_gets_two_answers() -> None:
    frame = calls(wait("poll", nfds=1), receive(8), receive(9, socket=8, sleep_ns=300))
    assert models(frame) == ["poll", "blocking"]


def test_threads_that_receive_what_another_waits_for_are_counted_with_it() -> None:
    """As the I/O threads of redis; of threads that block and found data at once it is not known."""
    worker = {"tid": PID + 1}
    told = [receive(64, **worker), receive(64, **worker)]
    main = [wait("epoll_wait"), receive(64)]
    frame = calls(*main, *told)
    found = answers(gather(frame), threads(epoll_level=1))
    assert [(answer.model, answer.tids) for answer in found] == [
        ("epoll level-triggered", (PID, PID + 1))
    ]
    assert "1 thread only receives" in found[0].evidence
    assert models(calls(main[0], *told), epoll_level=1) == ["unknown", "epoll level-triggered"]
    drained = [*told, receive(EAGAIN, **worker)]
    assert models(calls(main[0], *drained), epoll_level=1) == ["epoll level-triggered"]
    polls = [*drained, receive(EAGAIN, **worker)]
    assert models(calls(*main, *polls), epoll_level=1)[0] == "non-blocking"


def test_a_page_fault_in_one_receive_of_many_makes_no_second_answer() -> None:
    many = [receive(64) for _ in range(99)]
    frame = calls(wait("epoll_wait"), *many, receive(64, sleep_ns=300))
    assert models(frame, epoll_level=1) == ["epoll level-triggered"]


def test_draining_is_an_eagain_after_data_of_the_same_socket() -> None:
    frame = calls(receive(64), receive(EAGAIN), receive(EAGAIN, socket=8), receive(EAGAIN))
    row = gather(frame).iloc[0]
    assert (row["again"], row["drained"], row["received"]) == (3, 1, 1)


def test_evidence_gathered_in_pieces_is_that_of_the_whole() -> None:
    rows = [wait("poll", nfds=nfds) for nfds in (1, 5, 3)] + [receive(64), receive(EAGAIN)]
    frame = calls(*rows)
    parts = added([gather(frame.iloc[:2]), gather(frame.iloc[2:]), gather(frame.iloc[:0])])
    pd.testing.assert_frame_equal(parts, gather(frame), check_dtype=False)
    assert parts.loc[parts["call"] == "poll", "nfds_max"].item() == 5


def test_nothing_seen_is_no_answer() -> None:
    assert answers(gather(calls()), threads()) == []
