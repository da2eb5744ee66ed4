"""``iophase run``: the load, the transport and the network are those of the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from servers.models import FAMILIES, MODELS, by_name
from tests.live.command import iophase

pytestmark = pytest.mark.live

MESSAGES = 101
COLUMNS = 100
NAMES = {model.name: model.family for model in MODELS}


def run(folder: Path, *arguments: object) -> dict[str, Any]:
    """Run it, and return what it printed as JSON."""
    tool, code = iophase(folder, "run", *arguments, "-o", folder / "traces", "--json")
    assert code == 0, tool.errors
    printed: dict[str, Any] = json.loads(tool.output)
    return printed


def workload(folder: Path, model: str) -> dict[str, Any]:
    meta = json.loads((folder / "traces" / model / "trace.json").read_text())
    found: dict[str, Any] = meta["workload"]
    return found


def refused(folder: Path, code: int, *arguments: object) -> str:
    """Run it in vain, and return the one line that says why."""
    tool, found = iophase(folder, "run", *arguments, "-o", folder / "traces")
    assert found == code
    assert tool.output == ""
    [line] = tool.complaints
    return line


def test_all_models_are_in_one_table_by_family_or_are_rows_with_the_reason(tmp_path: Path) -> None:
    load_arguments = ("--transport", "udp", "--messages", MESSAGES)
    tool, code = iophase(tmp_path, "run", "--all", *load_arguments, "-o", tmp_path / "traces")
    assert code == 0, tool.errors
    lines = tool.output.splitlines()
    assert max(map(len, lines)) <= COLUMNS
    table = lines[: lines.index("")]
    heads = [line for line in table if line in FAMILIES]
    assert heads == list(FAMILIES)
    family = ""
    rows: dict[str, tuple[str, str]] = {}
    for line in table:
        family = line if line in FAMILIES else family
        name, _, rest = line.strip().partition(" ")
        if name in NAMES and line.startswith("  "):
            rows[name] = (family, rest.strip())
    assert {name: family for name, (family, _) in rows.items()} == NAMES
    for model in MODELS:
        _, cells = rows[model.name]
        reason = model.missing() or model.refuses("udp", 10)
        assert reason.startswith(cells) if reason else cells[0] in "0123456789<~", model.name


def test_the_load_is_that_of_the_load_generator(tmp_path: Path) -> None:
    options = ("--size", "1,509,4093", "-c", 5, "--processes", 2, "--per-request")
    [row] = run(tmp_path, "epoll", *options, "--messages", MESSAGES)["traces"]
    load = workload(tmp_path, "epoll")
    assert row["requests"] == load["messages"] == load["verified"] == MESSAGES
    assert load["size"] == [1, 509, 4093]
    assert load["server"]["connections"] == MESSAGES
    assert load["bytes_sent"] == load["server"]["bytes_received"] == row["bytes"]
    assert (load["transport"], load["network"]) == ("tcp", None)


def test_silent_connections_are_open_to_the_end(tmp_path: Path) -> None:
    run(tmp_path, "epoll", "--idle", 1000, "--messages", MESSAGES)
    load = workload(tmp_path, "epoll")
    assert (load["idle_open"], load["verified"], load["errors"]) == (1000, MESSAGES, 0)


def test_arrivals_can_be_open_loop_in_bursts(tmp_path: Path) -> None:
    run(tmp_path, "poll", "--rate", 400, "--burst", 4, "-d", 1, "-c", 8)
    load = workload(tmp_path, "poll")
    assert (load["rate"], load["messages"] + load["unsent"]) == (400, 400)


def test_slow_senders_send_a_byte_at_a_time(tmp_path: Path) -> None:
    [row] = run(tmp_path, "select", "--byte-gap", 200, "--size", 7, "--messages", 3, "-c", 1)[
        "traces"
    ]
    assert row["deliveries"] > 3
    assert row["bytes"] == 21


@pytest.mark.parametrize("transport", ["tcp6", "udp", "unix"])
def test_every_transport_is_traced_and_one_that_a_model_lacks_is_a_reason(
    transport: str, tmp_path: Path
) -> None:
    printed = run(tmp_path, "threads", "epoll", "--transport", transport, "--messages", MESSAGES)
    rows = {row["model"]: row for row in printed["traces"]}
    assert rows["epoll"]["deliveries"] == MESSAGES
    assert workload(tmp_path, "epoll")["transport"] == transport
    if transport == "udp":
        assert list(rows) == ["epoll"]
        reason = by_name("threads").no_udp
        row = {"model": "threads", "family": "blocking", "reason": reason}
        assert printed["absent"] == [row]
    else:
        assert list(rows) == ["threads", "epoll"]
        assert printed["absent"] == []


def test_clients_beyond_the_bound_of_a_pool_are_seen_to_wait(tmp_path: Path) -> None:
    load_arguments = ("-c", 20, "--messages", MESSAGES, "-o", tmp_path / "traces")
    tool, code = iophase(tmp_path, "run", "thread-pool", "epoll", *load_arguments)
    assert code == 0, tool.errors
    pool, others = (line for line in tool.errors.splitlines() if "requests/s" in line)
    assert "; 16 of 20 clients at a time, one waited " in pool
    assert "at a time" not in others


def test_select_is_refused_beyond_its_descriptors_with_the_reason(tmp_path: Path) -> None:
    line = refused(tmp_path, 1, "select", "--idle", 2000)
    assert "select: 2010 clients, and 1020 fit: an fd_set ends at descriptor 1023" in line


def test_a_network_of_namespaces_is_traced_and_named_in_the_trace(tmp_path: Path) -> None:
    network = ("--network", "veth", "--bandwidth", 50)
    [row] = run(tmp_path, "epoll", *network, "--size", 10_000, "--messages", 53)["traces"]
    load = workload(tmp_path, "epoll")
    assert load["verified"] == 53
    assert load["address"].startswith("192.0.2.1:")
    assert row["bytes"] == 530_000
    assert load["network"] == {
        "kind": "veth",
        "delay_ms": 0.0,
        "loss_percent": 0.0,
        "bandwidth_mbit": 50.0,
    }
    assert row["requests_per_s"] * 10_000 * 8 < 60e6


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["epoll", "--delay", 5], "run: --delay needs --network veth"),
        (["epoll", "--network", "veth", "--loss", 100], "run: --loss: 0 to less than 100 percent"),
        (["epoll", "--network", "veth", "--transport", "unix"], "crosses no network"),
        (["epoll", "--burst", 3], "run: burst: needs a rate"),
        (["epoll", "--per-request", "--transport", "udp"], "UDP has no connection per request"),
    ],
)
def test_a_load_or_network_that_cannot_be_is_wrong_usage(
    arguments: list[object], line: str, tmp_path: Path
) -> None:
    assert line in refused(tmp_path, 2, *arguments)
