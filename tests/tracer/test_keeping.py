"""Long recordings: what is kept, what is given up, and that both are counted."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.connections import connections
from analysis.evidence import evidence
from analysis.load import load
from analysis.parquet import export_parquet
from analysis.resolution import below_resolution
from analysis.summary import count_requests
from probes.calls import CALL_NAMES, CALLS
from probes.layout import CALL, KINDS, RECORD_SIZE, SOCKET, THREAD
from tests.tracer.synthetic import call, delivery, flags, joined, name, socket, thread
from tracer.errors import USAGE, IophaseError
from tracer.live.histograms import Histograms
from tracer.live.summary import Summary
from tracer.narrowing import Narrowing, narrowing
from tracer.ring import Records
from tracer.rotation import Rotation
from tracer.spool import SpoolWriter, open_spool
from tracer.thinning import Sampling
from tracer.tracedir import create
from tracer.traceinfo import Clock, TraceInfo

SOCKETS = 64
ROUNDS = 101


def rows() -> Records:
    """Return calls and deliveries on many sockets, with waits between them."""
    made = []
    for turn in range(ROUNDS):
        for inode in range(1, SOCKETS + 1):
            at = 1_000_000 * turn + 10_000 * inode
            made.append(
                call(
                    "recvfrom", ts=at, pid=5, tid=5, socket=inode, fd=7, result=60, bytes=60,
                    copy=40, overhead=10, flags=1, ready=at - 500 - inode, noticed=at,
                    copied=at + 45, delivered=60,
                )
            )  # fmt: skip
        made.append(call("epoll_wait", ts=10**6 * turn + 1, pid=5, tid=5, result=3, sleep=900))
        again = call("recvfrom", ts=10**6 * turn + 9, pid=5, tid=5, socket=3, fd=7, result=-11)
        made.append(again)
        made.append(
            call(
                "recvmmsg", ts=10**6 * turn + 9, pid=5, tid=5, socket=3, fd=7, result=70, bytes=64,
                flags=flags("BYTES_UNKNOWN", "COPY_UNKNOWN"),
            )
        )  # fmt: skip
        made.append(
            delivery(
                ts=10**6 * turn + 10, pid=5, tid=5, socket=3, copied=10**6 * turn + 11,
                flags=flags("READY_UNKNOWN"),
            )
        )  # fmt: skip
    ends = (bytes([10, 0, 0, 1]), 80), (bytes([10, 0, 0, 2]), 999)
    few = [socket(inode, 2, 6, *ends) for inode in range(1, SOCKETS + 1)]
    return joined(*made, *few, name(5, 1, b"web"), thread(pid=5, tid=5, ts=1, user=10, calls=3))


def save(path: Path, records: Records, **more: object) -> None:
    """Write a trace of these records."""
    info = TraceInfo(
        iophase="0", kernel="k", arch="a", backend="tracepoint", started=1, stopped=2,
        clock=Clock(monotonic_ns=1, realtime_ns=1),
        emitted={"calls": 0, "deliveries": 0, "threads": 0, "total": 0},
        lost={"calls": 0, "deliveries": 0, "threads": 0, "total": 0},
        **more,  # type: ignore[arg-type]
    )  # fmt: skip
    directory = create(path, info, CALLS)
    directory.spool.append(records)
    directory.finish(info)


def test_a_summary_is_what_the_rows_add_up_to(tmp_path: Path) -> None:
    records = rows()
    cost = {"sleep": 400, "check": 10, "copy": 30, "overhead": 4}
    save(tmp_path / "full", records, resolution_ns=cost)
    summary = Summary()
    for part in np.array_split(records, 7):
        summary.keep(part)
    (tmp_path / "sums").mkdir()
    save(tmp_path / "sums", summary.few(), summary=True, resolution_ns=cost)
    summary.write(tmp_path / "sums")
    full, sums = load(tmp_path / "full"), load(tmp_path / "sums")
    assert export_parquet(tmp_path / "sums", tmp_path / "parquet")["connections"] == SOCKETS
    exported = load(tmp_path / "parquet")
    pd.testing.assert_frame_equal(connections(exported), connections(sums))
    pd.testing.assert_frame_equal(evidence(exported), evidence(sums))
    assert summary.left_out == len(full.calls) + ROUNDS  # deliveries beside their calls
    assert sums.calls.empty and sums.deliveries.empty
    counts = [count_requests(trace).count for trace in (full, sums)]
    assert counts == [len(full.deliveries)] * 2
    pd.testing.assert_frame_equal(
        evidence(full).astype(str), evidence(sums).astype(str), check_dtype=False
    )
    assert below_resolution(full) == below_resolution(sums) == {"copy"}
    mine, theirs = (connections(trace).set_index("socket").sort_index() for trace in (full, sums))
    exact = ["calls", "bytes", "wait_ns", "copy_ns", "deliveries", "delivery_max_ns"]
    pd.testing.assert_frame_equal(mine[exact], theirs[exact], check_dtype=False)
    assert (mine["remote"] == theirs["remote"]).all()
    ratio = theirs["delivery_p50_ns"].astype(float) / mine["delivery_p50_ns"].astype(float)
    assert ratio.between(1 / 1.19, 1.19).all()


def test_a_summary_of_very_many_connections_and_threads_is_bounded_and_loses_no_sum() -> None:
    """Each connection has a socket, a thread and two calls of its own."""
    rounds, many = 30, 10_000
    summary = Summary()
    sizes = []
    for turn in range(rounds):
        batch = np.zeros(5 * many, CALL)
        numbers = np.arange(many) + turn * many + 10
        calls, arrivals, sockets, names, ledgers = np.split(batch, 5)
        for part, kind in (
            (calls, "CALL"), (arrivals, "DELIVERY"), (sockets, "SOCKET"), (names, "NAME"),
            (ledgers, "THREAD"),
        ):  # fmt: skip
            part["kind"], part["pid"], part["tid"] = KINDS[kind], 5, numbers
        calls["socket"] = arrivals["socket"] = numbers
        calls["call"], calls["bytes"], calls["result"] = CALL_NAMES.index("recvfrom"), 60, 60
        arrivals["ready"], arrivals["copied"] = 1000, 1000 + numbers
        sockets.view(SOCKET)["socket"] = numbers
        ledgers.view(THREAD)["wall"] = ledgers.view(THREAD)["user"] = 7
        summary.keep(batch)
        sizes.append(len(summary.few()))
    assert max(sizes) <= 130_000
    assert max(sizes[-10:]) <= max(sizes[:10])
    ledgers = summary.few()
    ledgers = ledgers[ledgers["kind"] == KINDS["THREAD"]].view(THREAD)
    assert ledgers["wall"].sum() == ledgers["user"].sum() == 7 * rounds * many
    assert len(np.unique(ledgers["tid"])) == len(ledgers)


def test_what_waited_longest_is_kept_by_its_address(tmp_path: Path) -> None:
    summary = Summary()
    many = 60_000
    calls, arrivals, sockets = (np.zeros(many, CALL) for _ in range(3))
    inodes = np.arange(1, many + 1)
    for part, kind in ((calls, "CALL"), (arrivals, "DELIVERY"), (sockets, "SOCKET")):
        part["kind"], part["pid"], part["tid"], part["socket"] = KINDS[kind], 5, 5, inodes
    calls["call"], calls["bytes"], calls["result"] = CALL_NAMES.index("recvfrom"), 60, 60
    arrivals["ready"], arrivals["copied"] = 1000, 1000 + inodes[::-1]
    ends = sockets.view(SOCKET)
    ends["family"], ends["socket"], ends["remote_port"] = 2, inodes, inodes % 65536
    for part in np.array_split(np.concatenate([sockets, calls, arrivals]), 9):
        summary.keep(part)
    summary.write(tmp_path)
    table = pd.read_csv(tmp_path / "connections.csv")
    assert len(table) <= 20_000
    assert table["socket"].tolist()[:3] == [1, 2, 3]
    assert table["remote"].tolist()[:3] == ["0.0.0.0:1", "0.0.0.0:2", "0.0.0.0:3"]
    assert table["delivery_max_ns"].tolist()[:3] == [many, many - 1, many - 2]
    assert (table["calls"].sum(), table["deliveries"].sum()) == (many, many)


def test_sums_are_saved_now_and_then_in_case_that_the_recording_dies(tmp_path: Path) -> None:
    summary = Summary()
    summary.keep(rows())
    summary.save_now_and_then(tmp_path)
    saved = (tmp_path / "connections.csv").read_text()
    assert saved.count("\n") == 1 + SOCKETS
    assert f",{ROUNDS}," in saved and (tmp_path / "evidence.csv").exists()
    summary.keep(rows())
    summary.save_now_and_then(tmp_path)  # too early
    assert (tmp_path / "connections.csv").read_text() == saved


def test_everyone_may_read_the_sums_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        Summary().write(tmp_path)
    finally:
        os.umask(before)
    files = list(tmp_path.iterdir())
    assert sorted(file.name for file in files) == ["connections.csv", "evidence.csv"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o644}


def test_quantiles_of_a_histogram_are_those_of_its_numbers_to_a_class() -> None:
    random = np.random.default_rng(5)
    sockets = random.integers(1, 9, 20_000)
    waited = (random.lognormal(8, 2, len(sockets)) * sockets).astype(np.int64)
    found = Histograms()
    for part in np.array_split(np.arange(len(sockets)), 7):
        found.add(sockets[part], waited[part])
    found.join(np.array([7, 8]), 7)
    for share in (0.01, 0.5, 0.99, 1.0):
        quantiles = found.quantile(share)
        assert list(quantiles) == [1, 2, 3, 4, 5, 6, 7]
        for socket_, value in quantiles.items():
            own = waited[sockets == socket_] if socket_ < 7 else waited[sockets >= 7]
            exact = np.quantile(own, share, method="inverted_cdf")
            assert 1 / 1.1 < value / exact < 1.1


def test_a_sample_keeps_whole_connections_and_everything_that_is_few() -> None:
    records, sampling = rows(), Sampling(4)
    kept = sampling.kept(records)
    assert len(kept) + sampling.left_out == len(records)
    of_sockets = kept[(kept["kind"] == KINDS["CALL"]) & (kept["result"] == 60)]
    inodes, counts = np.unique(of_sockets["socket"], return_counts=True)
    assert 0 < len(inodes) < SOCKETS and (counts == ROUNDS).all()
    for kind in ("SOCKET", "NAME", "THREAD"):
        assert (kept["kind"] == KINDS[kind]).sum() == (records["kind"] == KINDS[kind]).sum()


def test_one_connection_in_n_is_kept_whatever_the_numbers(
    tmp_path: Path,
) -> None:
    many = np.zeros(100_000, CALL)
    many["kind"], many["socket"] = KINDS["CALL"], np.arange(1, 100_001)
    assert len(Sampling(8).kept(many)) == pytest.approx(12_500, rel=0.05)


def test_a_rotated_spool_keeps_the_newest_rows_and_all_that_is_few(tmp_path: Path) -> None:
    spool = SpoolWriter(tmp_path / "spool", CALLS)
    limit = 4 * (RECORD_SIZE << 16)
    rotation = Rotation(spool, limit)
    batch = np.zeros(50_000, CALL)
    batch["kind"] = KINDS["CALL"]
    spool.append(joined(name(5, 1, b"web")))
    for turn in range(20):
        batch["ts"] = np.arange(len(batch)) + turn * len(batch)
        spool.append(batch)
        rotation.look()
    spool.close()
    assert (tmp_path / "spool").stat().st_blocks * 512 <= limit + (2 << 20)
    records = open_spool(tmp_path / "spool").records
    calls = records[records["kind"] == KINDS["CALL"]]
    assert len(calls) == 20 * len(batch) - rotation.left_out
    assert len(calls) * RECORD_SIZE <= limit
    assert calls["ts"][-1] == 20 * len(batch) - 1
    assert (np.diff(calls["ts"].astype(np.int64)) == 1).all()
    assert (records["kind"] == KINDS["NAME"]).sum() == 1


def test_narrowed_rows_are_those_of_thread_descriptor_and_peer(tmp_path: Path) -> None:
    near = (bytes([10, 0, 0, 1]), 80), (bytes([10, 0, 0, 2]), 999)
    far = (bytes([10, 0, 0, 1]), 80), (bytes([192, 168, 0, 2]), 999)
    records = joined(
        call("read", ts=1, pid=5, tid=5, fd=3, socket=70),
        call("read", ts=2, pid=5, tid=6, fd=3, socket=71),
        delivery(ts=3, pid=5, tid=6, fd=4, socket=71),
        call("poll", ts=4, pid=5, tid=6),
        socket(70, 2, 6, *near),
        socket(71, 2, 6, *far),
        thread(pid=5, tid=5, ts=1, user=1),
        thread(pid=5, tid=6, ts=1, user=1),
    )
    sockets = records[records["kind"] == KINDS["SOCKET"]]
    rows = records[:4]

    def kept(**conditions: tuple[int, ...] | tuple[str, ...]) -> list[int]:
        wanted = Narrowing(**conditions).calls(rows, _as_sockets(sockets))  # type: ignore[arg-type]
        return [int(ts) for ts in rows["ts"][wanted]]

    assert kept(tids=(6,)) == [2, 3, 4]
    assert kept(fds=(3,)) == [1, 2, 4]
    assert kept(peers=("10.0.0.0/8",)) == [1, 4]
    assert kept(peers=("192.168.0.2:999",)) == [2, 3, 4]
    assert kept(peers=("192.168.0.2:80",)) == [4]
    save(tmp_path / "trace", records, narrowed=Narrowing(tids=(6,)).as_dict())
    trace = load(tmp_path / "trace")
    assert trace.threads["tid"].tolist() == [6]
    assert trace.meta["left_out"] == 2
    assert len(trace.sockets) == 2


def _as_sockets(records: Records) -> Records:
    from probes.layout import SOCKET

    sockets: Records = records.view(SOCKET)
    return sockets


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        *(("tid", text) for text in (",", "x", "0", "7,")),
        *(("fd", text) for text in (",", "x", "-1")),
        *(("peer", text) for text in ("host", "1.2.3.4:0", "1.2.3.4:99999", "1.2.3.4:", "[::1")),
        *(("peer", text) for text in ("[::1]80", "[::1]:x", "10.0.0.0/33", "")),
    ],
)
def test_a_narrowing_that_means_nothing_is_wrong_usage(option: str, wrong: str) -> None:
    args = Namespace(tid=None, fd=None, peer=[])
    setattr(args, option, [wrong] if option == "peer" else wrong)
    with pytest.raises(IophaseError, match="not a") as refused:
        narrowing(args)
    assert refused.value.exit_code == USAGE
