"""What takes long says so on a terminal, and nowhere else."""

from __future__ import annotations

import io
import sys
import time

import pytest

from tracer import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(
    monkeypatch: pytest.MonkeyPatch, file: io.StringIO, seconds: float, term: str = "xterm"
) -> str:
    monkeypatch.setattr(progress, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(sys, "stderr", file)
    monkeypatch.setenv("TERM", term)
    with progress.working("reading"):
        limit = time.monotonic() + seconds
        while time.monotonic() < limit and not file.getvalue():
            time.sleep(0.01)
    return file.getvalue()


def test_long_work_is_named_on_a_terminal_and_its_line_is_cleared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = shown(monkeypatch, Terminal(), 30)
    assert "reading ... " in text
    assert text.endswith("\r\033[K")


def test_work_says_nothing_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, io.StringIO(), 0.2) == ""


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    assert shown(monkeypatch, terminal, 0.2, "dumb") == ""
    progress.begin("attaching")
    assert terminal.getvalue() == "attaching\n"
