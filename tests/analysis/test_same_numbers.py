"""A real trace: what ``run`` prints, what the API returns, and what the page shows are the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from analysis.attribution import attribute
from analysis.html import page
from analysis.load import load_many
from analysis.ranking import BEST, WORST
from analysis.summary import summarise
from analysis.tables import SHARE_COLUMNS
from tests.analysis.test_html import rows_of

MODELS = ("blocking", "select", "epoll")
MARKS = f"~{BEST}{WORST}"


@pytest.mark.live
def test_run_the_api_and_the_page_give_the_same_shares(tmp_path: Path) -> None:
    command = ["run", *MODELS, "--messages", "997", "-o", str(tmp_path / "traces")]
    done = subprocess.run(
        [sys.executable, "-m", "tracer", *command],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    first_table = done.stdout[: done.stdout.index("What a request cost")]
    lines = [
        line.translate(dict.fromkeys(map(ord, MARKS))).split() for line in first_table.splitlines()
    ]
    traces = load_many([tmp_path / "traces"])
    summary = summarise(traces)
    attributed = attribute(traces).set_index("model")
    shown = {row[0]: row for row in rows_of(page(traces), "Where the wall time")}
    for row in summary.to_dict("records"):
        model = str(row["model"])
        texts = [column.text(row[column.source]) for column in SHARE_COLUMNS]
        assert [model, *texts] in lines
        assert [text.lstrip("~") for text in shown[model]] == [model, *texts]
        for column in SHARE_COLUMNS:
            share = attributed.loc[model, f"{column.source}_share"]
            assert share == pytest.approx(row[column.source], abs=1e-12)
