"""``iophase claims`` as a user calls it; what traces is marked live."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.claims.registry import CLAIMS
from analysis.load import load


def claims(*arguments: str) -> subprocess.CompletedProcess[str]:
    backend = os.environ.get("IOPHASE_TEST_BACKEND")
    forced = ["--backend", backend] if backend else []
    return subprocess.run(
        [sys.executable, "-m", "tracer", "claims", *forced, *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_an_unknown_claim_is_wrong_usage_with_a_suggestion() -> None:
    done = claims("--only", "epoll-share-memory")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "no claim 'epoll-share-memory', but epoll-shares-memory" in done.stderr


def test_the_list_names_every_claim_and_runs_nothing() -> None:
    done = claims("--list")
    assert done.returncode == 0
    for claim in CLAIMS:
        assert claim.name in done.stdout


@pytest.mark.live
def test_cheap_claims_get_their_verdicts_on_this_host(tmp_path: Path) -> None:
    wanted = {
        "select-two-calls": "holds",
        "edge-triggered-once": "holds",
        "epoll-shares-memory": "does not hold",
        "native-aio-never-blocks": "does not hold",
    }
    output = tmp_path / "claims"
    only = [word for name in wanted for word in ("--only", name)]
    done = claims(*only, "--json", "--output", str(output))
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {one["name"]: one["verdict"] for one in document["claims"]} == wanted
    assert json.loads((output / "claims.json").read_text()) == document
    for one in document["claims"]:
        assert one["traces"]
        for trace in one["traces"]:
            assert load(trace).lost == 0


@pytest.mark.live
def test_traces_that_are_there_are_not_replaced_without_force(tmp_path: Path) -> None:
    arguments = ("--only", "selectors-picks-epoll", "--output", str(tmp_path / "claims"))
    assert claims(*arguments).returncode == 0
    again = claims(*arguments)
    assert again.returncode == 2
    assert "--force" in again.stderr
    assert claims(*arguments, "--force").returncode == 0


@pytest.mark.live
def test_ctrl_c_judges_what_was_run_and_exits_1(tmp_path: Path) -> None:
    names = ("blocking-blocks", "polling-burns-cpu")
    only = [word for name in names for word in ("--only", name)]
    command = [sys.executable, "-m", "tracer", "claims", *only, "--json", "-o", str(tmp_path / "c")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("[2/"):
                break
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    verdicts = {one["name"]: one["verdict"] for one in json.loads(printed)["claims"]}
    assert verdicts == {"blocking-blocks": "holds", "polling-burns-cpu": "cannot be told"}
