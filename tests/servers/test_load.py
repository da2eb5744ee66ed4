"""The load generator against peers that are known to behave, or known not to."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.load import Load, LoadError, LoadOptions, Result, main, run_load
from tests.servers.load_peer import echo, peer, reset, stall

MS = 1_000_000
PAUSE_S = 0.05


@pytest.mark.parametrize("size", [1, 64, 16_384, 1_000_003])
def test_messages_are_exact_in_number_and_bytes(size: int) -> None:
    messages = 211 if size < 1_000_000 else 13
    with peer() as address:
        result = run_load(address, LoadOptions(sizes=(size,), messages=messages, connections=7))
    assert (result.messages, result.verified, result.errors) == (messages, messages, 0)
    assert result.bytes_sent == result.bytes_received == messages * size
    assert result.connections_made == result.connections_served == 7


def test_fewer_messages_than_connections_are_exact() -> None:
    with peer() as address:
        result = run_load(address, LoadOptions(messages=3, connections=10))
    assert (result.messages, result.connections_served, result.errors) == (3, 3, 0)


def test_mixed_sizes_are_all_sent() -> None:
    sizes = (3, 500, 40_000)
    with peer() as address:
        result = run_load(address, LoadOptions(sizes=sizes, messages=307, connections=5))
    assert (result.verified, result.errors) == (307, 0)
    assert 307 * 10_000 < result.bytes_sent == result.bytes_received < 307 * 17_000


def test_processes_share_messages_and_connections_exactly() -> None:
    with peer() as address:
        options = LoadOptions(messages=1009, connections=7, idle=5, processes=3)
        result = run_load(address, options)
    assert (result.messages, result.verified, result.errors) == (1009, 1009, 0)
    assert (result.connections_made, result.idle_open) == (12, 5)


def test_duration_is_kept() -> None:
    at: list[int] = []

    def note(connection: socket.socket, data: bytes, count: int) -> None:
        at.append(time.monotonic_ns())
        echo(connection, data, count)

    with peer(note) as address:
        result = run_load(address, LoadOptions(duration=0.5))
    end_ns = result.started_ns + 500 * MS
    assert sum(moment > end_ns for moment in at) <= result.connections  # what was under way
    assert result.duration_s >= 0.5
    assert result.verified == result.messages > result.connections
    assert result.requests_per_s == pytest.approx(result.messages / result.duration_s)


def test_nothing_is_sent_between_connect_and_start() -> None:
    received: list[bytes] = []

    def note(connection: socket.socket, data: bytes, count: int) -> None:
        received.append(data)
        echo(connection, data, count)

    with peer(note) as address, Load(address, LoadOptions(messages=11, idle=3)) as load:
        connected = load.connect()
        assert (connected.busy, connected.idle, connected.pending) == (10, 3, 0)
        time.sleep(0.1)
        assert received == []
        start = time.monotonic_ns() + 200 * MS
        result = load.run(start)
        assert result.started_ns == start
        assert time.monotonic_ns() > start
    assert sum(map(len, received)) == 11 * 64


def test_latency_is_a_known_delay_and_never_less() -> None:
    def delay(connection: socket.socket, data: bytes, count: int) -> None:
        time.sleep(PAUSE_S)
        echo(connection, data, count)

    with peer(delay) as address:
        result = run_load(address, LoadOptions(connections=1, messages=13))
    lowest = PAUSE_S * 1e9 * (1 - 1 / 1024)  # half a bucket of the histogram
    assert all(value is not None and value >= lowest for value in result.latency_ns.values())
    # One after the other: the seven longest, and six others, took no longer than the whole.
    longest = (result.duration_s - 6 * PAUSE_S) * 1e9
    assert 7 * (result.latency_ns["p50"] or 0) <= longest * (1 + 1 / 1024)


def test_a_stalled_server_cannot_hide_in_an_open_loop() -> None:
    """A stall of 0.4 s in 2 s: a fifth of all messages were due in it, and have waited."""
    with peer(stall(after=300, seconds=0.4)) as address:
        open_loop = run_load(address, LoadOptions(rate=1000, duration=2, connections=4))
    with peer(stall(after=300, seconds=0.4)) as address:
        closed_loop = run_load(address, LoadOptions(messages=2000, connections=4))
    assert (open_loop.messages, open_loop.unsent) == (2000, 0)
    assert (open_loop.latency_ns["p99"] or 0) > 350 * MS
    assert (open_loop.latency_ns["p90"] or 0) > 100 * MS
    # Of the closed loop's messages the stall has met one per connection: four in two thousand.
    assert (closed_loop.latency_ns["p99"] or 0) < 350 * MS


@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
def test_the_rate_is_kept(arrivals: str) -> None:
    with peer() as address:
        result = run_load(address, LoadOptions(rate=2000, arrivals=arrivals, duration=1))
    assert result.unsent == 0
    assert result.messages == pytest.approx(2000, abs=1 if arrivals == "constant" else 250)


def test_bursts_arrive_together() -> None:
    at: list[float] = []

    def note(connection: socket.socket, data: bytes, count: int) -> None:
        at.append(time.monotonic())
        echo(connection, data, count)

    with peer(note) as address:
        result = run_load(address, LoadOptions(rate=50, burst=10, messages=50))
    assert result.messages == 50
    bursts = [sorted(at)[first : first + 10] for first in range(0, 50, 10)]
    for number, burst in enumerate(bursts):
        assert burst[0] >= result.started_ns / 1e9 + number * 0.2  # not before it was due
    # At this rate ten messages one by one would be 180 ms apart, however late some are.
    assert min(burst[-1] - burst[0] for burst in bursts) < 0.09


def test_messages_that_no_connection_was_free_for_are_reported() -> None:
    def delay(connection: socket.socket, data: bytes, count: int) -> None:
        time.sleep(0.1)
        echo(connection, data, count)

    options = LoadOptions(rate=1000, duration=0.5, connections=2, timeout=1)
    with peer(delay) as address:
        result = run_load(address, options)
    assert result.messages + result.unsent == 500
    assert 2 < result.messages < 30
    assert 1.3 < result.duration_s < 2.5


def test_messages_that_were_due_are_sent_after_a_stall_at_the_end() -> None:
    with peer(stall(after=200, seconds=0.7)) as address:
        result = run_load(address, LoadOptions(rate=1000, duration=0.5, connections=2))
    assert (result.messages, result.unsent) == (500, 0)
    assert (result.latency_ns["p50"] or 0) > 300 * MS


@pytest.mark.parametrize("every", [1, 7])
def test_wrong_replies_are_counted(every: int) -> None:
    def spoil(connection: socket.socket, data: bytes, count: int) -> None:
        wrong = count % every == 0
        connection.sendall(data.upper()[:-1] + b"#" if wrong else data.upper())

    with peer(spoil) as address:
        result = run_load(address, LoadOptions(messages=70, connections=1))
    assert result.error_kinds == {"wrong reply": 70 // every}
    assert (result.messages, result.verified) == (70, 70 - 70 // every)
    assert result.failed


def test_a_reply_of_another_message_is_wrong() -> None:
    last: list[bytes] = [b"x" * 64]

    def lag(connection: socket.socket, data: bytes, _: int) -> None:
        connection.sendall(last[-1].upper())
        last.append(data)

    with peer(lag) as address:
        result = run_load(address, LoadOptions(messages=50, connections=1))
    assert (result.verified, result.error_kinds) == (0, {"wrong reply": 50})


def test_a_reply_that_is_too_long_is_wrong() -> None:
    def stammer(connection: socket.socket, data: bytes, _: int) -> None:
        connection.sendall(data.upper() + b"X")

    with peer(stammer) as address:
        result = run_load(address, LoadOptions(messages=20, connections=2))
    assert (result.verified, result.error_kinds) == (0, {"wrong reply": 2})


def test_replies_in_pieces_are_verified() -> None:
    def dribble(connection: socket.socket, data: bytes, _: int) -> None:
        for k in range(0, len(data), 10):
            connection.sendall(data[k : k + 10].upper())
            time.sleep(0.001)

    with peer(dribble) as address:
        result = run_load(address, LoadOptions(messages=23, connections=3))
    assert (result.verified, result.errors) == (23, 0)


@pytest.mark.parametrize("part", [10, 64, 1000])
def test_suffixed_replies_are_verified(part: int) -> None:
    def suffix(connection: socket.socket, data: bytes, _: int) -> None:
        for k in range(0, len(data), part):
            connection.sendall(data[k : k + part].upper() + b"_SB")

    with peer(suffix) as address:
        result = run_load(address, LoadOptions(messages=101, suffix="_SB"))
        missing = run_load(address, LoadOptions(messages=3, connections=3))
    assert (result.verified, result.errors) == (101, 0)
    assert result.bytes_received == 101 * 64 + 101 * 3 * -(-64 // part)
    assert missing.error_kinds == {"wrong reply": 3}


def test_a_missing_suffix_ends_in_a_time_out() -> None:
    with peer() as address:
        options = LoadOptions(messages=4, connections=2, suffix="_SB", timeout=0.3)
        result = run_load(address, options)
    assert (result.messages, result.error_kinds) == (0, {"timed out": 2})


def test_a_refused_connection_is_an_error_that_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(LoadError, match=rf"127\.0\.0\.1:{port}: connection refused"):
        run_load(f"127.0.0.1:{port}", LoadOptions(messages=1))
    with pytest.raises(LoadError, match=r"no such socket"):
        run_load("unix:/nowhere/at/all", LoadOptions(messages=1))
    with pytest.raises(LoadError, match="not an address"):
        run_load("127.0.0.1", LoadOptions(messages=1))


@pytest.mark.parametrize("per_request", [False, True])
def test_resets_are_counted(per_request: bool) -> None:
    def refuse(connection: socket.socket, data: bytes, count: int) -> None:
        if count % 5 == 4:
            reset(connection)
        else:
            echo(connection, data, count)

    with peer(refuse) as address:
        result = run_load(address, LoadOptions(messages=25, connections=1, per_request=per_request))
    answered = 20 if per_request else 4
    resets = 5 if per_request else 1
    assert (result.messages, result.error_kinds) == (
        answered,
        {"connection reset by server": resets},
    )


def test_connections_closed_before_the_start_are_counted() -> None:
    accepted: list[socket.socket] = []
    options = LoadOptions(messages=10, idle=2)
    with peer(greet=accepted.append) as address, Load(address, options) as load:
        load.connect()
        time.sleep(0.2)
        for connection in accepted:
            reset(connection)
        result = load.run()
    assert (result.messages, result.idle_open) == (0, 0)
    assert sum(n for kind, n in result.error_kinds.items() if kind.startswith("idle: ")) == 2
    assert result.errors == 12


@pytest.mark.parametrize("per_request", [False, True])
def test_every_message_asked_for_is_accounted_for(per_request: bool) -> None:
    def trouble(connection: socket.socket, data: bytes, count: int) -> None:
        match count % 10:
            case 3:
                reset(connection)
            case 5:
                connection.close()
            case 6:
                connection.sendall(b"?" * len(data))
            case 8:
                pass
            case _:
                echo(connection, data, count)

    options = LoadOptions(messages=60, connections=4, per_request=per_request, timeout=0.3)
    with peer(trouble) as address:
        result = run_load(address, options)
    assert result.verified + result.errors + result.unsent == 60
    assert (result.unsent == 0) == per_request
    assert per_request == (result.verified == 36)


def test_a_silent_server_ends_in_time_outs() -> None:
    def silent(connection: socket.socket, data: bytes, count: int) -> None:
        pass

    start = time.monotonic()
    with peer(silent) as address:
        result = run_load(address, LoadOptions(messages=100, connections=3, timeout=0.5))
    assert (result.messages, result.error_kinds) == (0, {"timed out": 3})
    assert time.monotonic() - start < 5


def test_idle_connections_are_open_while_the_busy_ones_work() -> None:
    most = 0
    accepted: list[socket.socket] = []

    def count_open(connection: socket.socket, data: bytes, count: int) -> None:
        nonlocal most
        most = max(most, sum(other.fileno() >= 0 for other in accepted))
        echo(connection, data, count)

    with peer(count_open, greet=accepted.append) as address:
        result = run_load(address, LoadOptions(messages=101, connections=3, idle=400))
    assert most == 403
    assert (result.idle_open, result.connections_served, result.errors) == (400, 3, 0)


def test_a_connection_per_request_is_a_new_one_each_time() -> None:
    accepted: list[socket.socket] = []
    with peer(greet=accepted.append) as address:
        result = run_load(address, LoadOptions(messages=101, per_request=True, connections=4))
    assert len(accepted) == result.connections_made == result.verified == 101
    assert result.errors == 0


def test_slow_senders_send_a_byte_at_a_time() -> None:
    received: list[bytes] = []

    def note(connection: socket.socket, data: bytes, count: int) -> None:
        received.append(data)
        echo(connection, data, count)

    with peer(note) as address:
        options = LoadOptions(messages=4, connections=2, sizes=(20,), byte_gap_us=2000)
        result = run_load(address, options)
    assert (result.verified, result.errors) == (4, 0)
    assert len(received) > 60
    assert (result.latency_ns["p50"] or 0) >= 19 * 2 * MS * (1 - 1 / 1024)


def test_a_server_of_one_connection_at_a_time_serves_them_all() -> None:
    with _one_at_a_time(backlog=128) as address:
        result = run_load(address, LoadOptions(messages=1009, connections=10))
        by_time = run_load(address, LoadOptions(duration=0.3, connections=10))
        open_loop = run_load(address, LoadOptions(duration=0.5, rate=500, connections=10))
    for each in (result, by_time, open_loop):
        assert each.errors == 0
        assert each.connections_served == 10
        assert each.verified == each.messages
    assert result.messages == 1009


def test_more_connections_than_the_backlog_holds_are_served_in_the_end() -> None:
    with (
        _one_at_a_time(backlog=5) as address,
        Load(address, LoadOptions(messages=101, connections=9)) as load,
    ):
        connected = load.connect()
        assert connected.busy + connected.pending == 9
        result = load.run()
    assert (result.messages, result.connections_served, result.errors) == (101, 9, 0)


@contextlib.contextmanager
def _one_at_a_time(backlog: int) -> Iterator[str]:
    """Serve as the article's first server does."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(ConnectionError):
                while data := connection.recv(65_536):
                    connection.sendall(data.upper())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def test_ipv6_and_unix_sockets_are_served(tmp_path: Path) -> None:
    with peer(family=socket.AF_INET6) as address:
        six = run_load(address, LoadOptions(messages=101))
    with peer(family=socket.AF_UNIX, path=str(tmp_path / "s")) as address:
        unix = run_load(address, LoadOptions(messages=101, idle=3))
    assert (six.verified, six.errors) == (unix.verified, unix.errors) == (101, 0)


@contextlib.contextmanager
def _datagrams(lose: int) -> Iterator[str]:
    """Echo datagrams; lose each `lose`-th (0: none)."""
    served = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    served.bind(("127.0.0.1", 0))

    def serve() -> None:
        count = 0
        while True:
            data, source = served.recvfrom(65_536)
            if not data:
                return
            count += 1
            if not lose or count % lose:
                served.sendto(data.upper(), source)

    thread = threading.Thread(target=serve)
    thread.start()
    host, port = served.getsockname()
    try:
        yield f"udp:{host}:{port}"
    finally:
        served.sendto(b"", (host, port))
        thread.join()
        served.close()


def test_datagrams_are_verified_and_lost_ones_counted() -> None:
    with _datagrams(lose=0) as address:
        whole = run_load(address, LoadOptions(messages=101, sizes=(1, 1400, 60_000), connections=2))
    with _datagrams(lose=10) as address:
        lossy = run_load(address, LoadOptions(messages=40, connections=2, timeout=0.2))
    assert (whole.verified, whole.errors) == (101, 0)
    assert (lossy.verified, lossy.error_kinds) == (36, {"timed out": 4})


def test_a_run_can_be_stopped_early() -> None:
    with peer() as address, Load(address, LoadOptions(duration=60)) as load:
        load.connect()
        load.start()
        assert not load.done(0.3)
        load.stop()
        assert load.done(2.0)
        result = load.result()
    assert 0.2 < result.duration_s < 2
    assert result.messages > 0
    assert result.errors == 0


def test_leaving_the_context_leaves_no_process_behind() -> None:
    with peer() as address, Load(address, LoadOptions(duration=60, processes=2)) as load:
        load.connect()
        load.start()
        pids = load.pids
    assert len(pids) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_the_child_ends_when_its_parent_is_killed() -> None:
    program = (
        "import sys, time; from servers.load import Load, LoadOptions\n"
        "load = Load(sys.argv[1], LoadOptions(duration=60)).__enter__()\n"
        "load.connect(); load.start(); print(*load.pids, flush=True); time.sleep(60)"
    )
    with peer() as address:
        parent = subprocess.Popen(
            [sys.executable, "-c", program, address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert parent.stdout is not None
        assert parent.stderr is not None
        child = Path("/proc") / parent.stdout.readline().strip()
        assert child.exists()
        parent.kill()
        parent.wait()
        parent.stdout.close()
        for _ in range(100):
            if not child.exists() or "\nState:\tZ" in (child / "status").read_text():
                break
            time.sleep(0.02)
        else:
            pytest.fail("the child runs on")
        assert parent.stderr.read() == ""
        parent.stderr.close()


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (LoadOptions(connections=0), "connections: at least 1"),
        (LoadOptions(sizes=(0,)), "size: at least 1"),
        (LoadOptions(rate=0), "rate: above 0"),
        (LoadOptions(rate=float("nan")), "rate: above 0"),
        (LoadOptions(duration=0), "duration: above 0"),
        (LoadOptions(duration=float("inf")), "duration: above 0"),
        (LoadOptions(timeout=float("nan")), "timeout: above 0"),
        (LoadOptions(sizes=(64, 1 << 40)), "size: at most 67108864 bytes"),
        (LoadOptions(rate=1, burst=10**9), "burst: 1 to 1000000"),
        (LoadOptions(messages=0), "messages: at least 1"),
        (LoadOptions(burst=2), "burst: needs a rate"),
        (LoadOptions(connections=1, processes=2), "processes: 1 to connections"),
    ],
)
def test_options_that_make_no_load_are_refused(options: LoadOptions, cause: str) -> None:
    with pytest.raises(LoadError, match=cause):
        Load("127.0.0.1:9", options)


def test_the_descriptor_limit_is_raised_or_the_refusal_says_how() -> None:
    limited = "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (64, {hard})); "
    drop = "import os; os.setgid(65534); os.setuid(65534); "
    call = "import sys; from servers.load_options import *; print(raise_descriptor_limit(500))"

    def run(program: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert "raised from 64 to 532" in run(limited.format(hard=1000) + call).stdout
    if os.geteuid() == 0:
        # As another user even reading this tree may be refused: import first.
        call = "import sys; from servers.load_options import *; " + drop + call
    refused = run(limited.format(hard=64) + call)
    assert "500 connections need 532 descriptors, and the limit is 64" in refused.stderr
    assert "ulimit -Hn 532" in refused.stderr


def test_the_command_line_prints_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    with peer() as address:
        assert main([address, "--messages", "101", "--idle", "2", "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert main([address, "--messages", "7", "--suffix", "!", "--timeout", "0.2"]) == 1
        assert "error: timed out: 7" in capsys.readouterr().out
    expected = {"messages": 101, "verified": 101, "idle": 2, "size": 64, "rate": None, "errors": 0}
    assert expected.items() <= result.items()
    assert result.keys() == Result.__dataclass_fields__.keys()
    assert result["latency_ns"].keys() == {"p50", "p90", "p99", "p99_9", "max", "mean"}
    assert main(["127.0.0.1:1", "--messages", "1"]) == 1
    assert capsys.readouterr().err.startswith("load: 127.0.0.1:1: connection refused")
