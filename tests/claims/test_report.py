"""The text and the JSON say the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.claims.claim import SOURCE, Figure, Finding, Missing, Outcome, Verdict
from analysis.claims.estimate import Estimate
from analysis.claims.registry import CLAIMS, choose, order
from analysis.claims.report import claims_text, verdicts_json, verdicts_text
from tests.claims.made import judged

UNKNOWN = float("nan")
HOST = {"kernel": "6.18.0", "arch": "x86_64", "backend": "tracepoint"}


def verdicts(parent: Path) -> list[Verdict]:
    finding = Finding(
        Outcome.HOLDS,
        "Measured a hundred times, with numbers that make this sentence a long one: " + "x " * 60,
        "95 %: 1.2 to 1.3",
        (
            Figure("ratio", Estimate(1.25, 1.2, 1.3)),
            Figure("wait", Estimate(7.0, UNKNOWN, UNKNOWN), "ns"),
        ),
    )
    traces = tuple(parent / f"thread-pool-c16-m8009-workers-4.{n}" for n in (1, 2, 3))
    return [Verdict(claim, finding, traces) for claim in CLAIMS]


def test_the_text_fits_into_100_columns(tmp_path: Path) -> None:
    text = verdicts_text(verdicts(tmp_path), tmp_path)
    assert max(map(len, text.splitlines())) <= 100
    assert max(map(len, claims_text(CLAIMS).splitlines())) <= 100


def test_the_text_quotes_each_claim_in_one_line_and_names_its_source_and_its_traces(
    tmp_path: Path,
) -> None:
    text = verdicts_text(verdicts(tmp_path), tmp_path)
    for claim in CLAIMS:
        assert f"  \u201c{claim.text}\u201d\n" in text
    assert SOURCE["url"] in text
    assert "thread-pool-c16-m8009-workers-4.1-3" in text
    assert f"{len(CLAIMS)} holds, 0 does not hold, 0 cannot be told." in text


def test_the_json_has_every_claim_with_its_figures_and_traces(tmp_path: Path) -> None:
    document = json.loads(verdicts_json(verdicts(tmp_path), HOST))
    assert document["source"] == SOURCE
    assert document["host"] == HOST
    assert [claim["name"] for claim in document["claims"]] == [claim.name for claim in CLAIMS]
    first = document["claims"][0]
    assert first["verdict"] == "holds"
    assert first["figures"][0] == {
        "name": "ratio", "unit": None, "value": 1.25, "low": 1.2, "high": 1.3,
    }  # fmt: skip
    assert first["figures"][1]["low"] is None
    assert first["traces"][2] == str(tmp_path / "thread-pool-c16-m8009-workers-4.3")


def test_a_claim_that_cannot_be_told_says_why() -> None:
    verdict = judged("select-two-calls", {"select": Missing("no such luck", failed=False)})
    assert "no such luck" in verdicts_text([verdict], Path())


def test_a_claim_is_one_line_and_its_name_is_unique() -> None:
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert "\n" not in claim.text
        assert len(claim.text) <= 100


def test_an_unknown_claim_is_answered_by_those_that_come_close() -> None:
    with pytest.raises(ValueError, match=r"no claim 'epol-memory', but .*epoll-shares-memory"):
        choose(["epol-memory"])


def test_an_experiment_that_several_claims_share_is_run_once() -> None:
    runs = [(one.name, repetition) for one, repetition in order(CLAIMS)]
    assert len(set(runs)) == len(runs)
    needed = {one.name for claim in CLAIMS for one in claim.experiments.values()}
    assert {name for name, _ in runs} == needed


def test_different_experiments_have_different_names() -> None:
    experiments = {one for claim in CLAIMS for one in claim.experiments.values()}
    assert len({one.name for one in experiments}) == len(experiments)
