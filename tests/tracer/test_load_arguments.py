"""A load that cannot be is refused in one line, before a server is started."""

from __future__ import annotations

import re

import pytest

from tracer.cli import main

WRONG = {
    "-c": ("0", "-1", "x", "1.5", "1000001"),
    "--idle": ("-1", "x", "1000000"),
    "--size": ("0", "-1", "x", "64,", "67108865", "64,99999999999"),
    "--rate": ("0", "-1", "x", "nan", "inf", "2e9"),
    "--burst": ("0", "-1", "x", "2", "1000001"),
    "--duration": ("0", "-1", "x", "nan", "inf"),
    "--messages": ("0", "-1", "x"),
    "--byte-gap": ("-1", "x", "60000001"),
    "--timeout": ("0", "-1", "x", "nan", "inf"),
    "--processes": ("0", "-1", "x", "11"),
}
OF_A_RUN = {
    "--work": ("-1", "x", "1e3", "60000001"),
    "--delay": ("-1", "x", "nan", "60001"),
    "--loss": ("-1", "x", "nan", "100"),
    "--bandwidth": ("0", "-1", "x", "nan", "34001"),
    "--transport": ("x",),
    "--network": ("x",),
}
WORDS = {"-c": "connections", "--processes": "processes"}


pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")


@pytest.fixture(autouse=True)
def restored_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what `iophase serve` does to them: it becomes the server."""
    monkeypatch.setattr("sys.argv", ["iophase"])


def cases(wrong: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(option, value) for option, values in wrong.items() for value in values]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line that the arguments are refused with, as wrong usage."""
    try:
        code: object = main(arguments)
    except SystemExit as left:
        code = left.code
    said = capsys.readouterr()
    assert code == 2, said
    assert said.out == ""
    assert said.err.startswith("iophase") and said.err.count("\n") == 1
    return said.err


def names(line: str, option: str) -> bool:
    """Say whether a line is about an option."""
    return WORDS.get(option, option.strip("-").replace("-", " ")) in re.sub("-", " ", line)


@pytest.mark.parametrize(("option", "value"), cases(WRONG | OF_A_RUN))
def test_run_refuses_what_is_no_load(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    network = ("--network", "veth") if option in ("--delay", "--loss", "--bandwidth") else ()
    assert names(refused(capsys, "run", "epoll", *network, option, value), option)


@pytest.mark.parametrize(("option", "value"), cases(WRONG))
def test_load_refuses_what_is_no_load(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert names(refused(capsys, "load", "127.0.0.1:9", option, value), option)


@pytest.mark.parametrize("value", ("-1", "x", "60000001"))
def test_a_server_refuses_what_is_no_work(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    for model in ("epoll", "nonblocking-nap"):
        assert "--work" in refused(capsys, "serve", model, "--work", value)


@pytest.mark.parametrize(
    ("option", "value"),
    (("--buffer", "0"), ("--port", "65536"), ("--port", "x"), ("--nap", "0"), ("--nap", "x")),
)
def test_a_server_refuses_what_it_cannot_be(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert option in refused(capsys, "serve", "nonblocking-nap", option, value)
