"""The verdict says what the numbers support, and names the connection that makes the tail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.evidence import evidence
from analysis.load import load
from analysis.recognition import recognise
from analysis.units import share_text, time_text
from analysis.verdict import verdict
from tests.analysis.synthetic import make_trace

LATE_NS = 4_000_000


def sentences(path: Path) -> list[str]:
    trace = load(path)
    return verdict(trace, recognise(trace), evidence(trace))


def test_the_share_of_sleep_and_the_quantiles_are_those_of_the_files(tmp_path: Path) -> None:
    path = make_trace(tmp_path / "epoll", "epoll")
    threads = pd.read_csv(path / "threads.csv")
    arrivals = pd.read_csv(path / "deliveries.csv").dropna(subset=["ready_ns", "copied_ns"])
    share = share_text(threads["sleep_ns"].sum() / threads["wall_ns"].sum())
    waited = arrivals["copied_ns"] - arrivals["ready_ns"]
    first, second = sentences(path)
    assert f"spends {share} % of its wall time asleep in epoll_wait; of the rest, " in first
    assert f"ready for {time_text(waited.median())} at the median" in second
    assert f"and {time_text(float(waited.quantile(0.99)))} at p99" in second


def test_a_tail_on_one_connection_names_it(tmp_path: Path) -> None:
    path = make_trace(tmp_path / "epoll", "epoll")
    arrivals = pd.read_csv(path / "deliveries.csv")
    known = arrivals.dropna(subset=["ready_ns", "socket"])
    slow = int(known["socket"].iloc[0])
    late = known.index[known["socket"] == slow][: int(np.ceil(0.02 * len(known)))]
    arrivals.loc[late, "ready_ns"] -= LATE_NS
    arrivals.to_csv(path / "deliveries.csv", index=False)
    sockets = pd.read_csv(path / "sockets.csv").set_index("socket")
    assert f"% of the tail is on one connection, {sockets['remote'][slow]}" in sentences(path)[1]


@pytest.mark.parametrize(
    ("kept", "is_known"),
    [
        ({}, True),
        ({"narrowed": {"tids": [7]}}, True),
        ({"narrowed": {"peers": ["127.0.0.1"]}}, False),
        ({"sample": 4}, False),
    ],
)
def test_what_a_thread_was_busy_with_is_said_only_where_all_its_sockets_are_in_the_trace(
    kept: dict[str, object], is_known: bool, tmp_path: Path
) -> None:
    path = make_trace(tmp_path / "blocking", "blocking", meta=kept)
    arrivals = pd.read_csv(path / "deliveries.csv")
    late = arrivals.index[np.arange(len(arrivals)) % 50 == 49]
    arrivals.loc[late, "ready_ns"] -= LATE_NS
    arrivals.to_csv(path / "deliveries.csv", index=False)
    assert ("while the thread was busy with data" in sentences(path)[1]) == is_known


def test_without_a_single_call_there_is_nothing_to_say_but_that(tmp_path: Path) -> None:
    path = make_trace(tmp_path / "epoll", "epoll")
    for name in ("calls", "deliveries", "threads"):
        header = (path / f"{name}.csv").read_text().splitlines()[0]
        (path / f"{name}.csv").write_text(header + "\n")
    assert sentences(path) == ["No traced thread made a call of the receive path."]
