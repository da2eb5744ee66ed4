"""``iophase lab``: what it passes on, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tracer import lab
from tracer.cli import main
from tracer.commands.lab import DEFAULT_TIMEOUT_S
from tracer.errors import USAGE


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was asked of the lab; no guest is started, and the command in it ends with 3."""
    asked: dict[str, Any] = {}

    def run_in_lab(series: str, command: list[str], **options: Any) -> lab.LabResult:
        asked.update(options, series=series, command=command)
        return lab.LabResult(3, "6.1.0-0-amd64", 1.0, 2.0)

    monkeypatch.setattr(lab, "run_in_lab", run_in_lab)
    return asked


def test_a_verb_runs_as_the_same_iophase_and_its_exit_code_comes_back(ran: dict[str, Any]) -> None:
    assert main(["lab", "6.1", "--", "run", "--all", "--", "x"]) == 3
    assert ran["command"] == [sys.executable, "-m", "tracer", "run", "--all", "--", "x"]
    assert (ran["series"], ran["output"], ran["timeout_s"]) == ("6.1", None, DEFAULT_TIMEOUT_S)


def test_exec_runs_any_program(ran: dict[str, Any]) -> None:
    assert main(["lab", "--exec", "--output", "/tmp", "--timeout", "5", "7.3", "uname", "-a"]) == 3
    assert ran["command"] == ["uname", "-a"]
    assert (ran["output"], ran["timeout_s"]) == (Path("/tmp"), 5.0)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["6.1"], "nothing to run"),
        (["6.1", "--"], "nothing to run"),
        (["6.1", "--timeout", "5", "--", "doctor"], "options of lab come before the kernel"),
        (["--timeout", "0", "6.1", "doctor"], "--timeout 0"),
        (["--timeout", "nan", "6.1", "doctor"], "--timeout nan"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str], complaint: str, ran: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", *arguments]) == USAGE
    assert complaint in capsys.readouterr().err
    assert not ran


def test_an_unknown_kernel_is_refused_before_anything_is_downloaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["lab", "4.4", "doctor"]) == USAGE
    assert "no kernel '4.4' in the lab" in capsys.readouterr().err
