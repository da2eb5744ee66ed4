from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from probes.calls import CALLS
from probes.layout import CALL, KINDS
from tests.analysis.synthetic import make_trace
from tracer import cli
from tracer.commands import VERBS
from tracer.errors import IophaseError
from tracer.tracedir import create
from tracer.traceinfo import Clock, TraceInfo
from tracer.version import __version__

IOPHASE = (sys.executable, "-m", "tracer")
PRIME = 499


def iophase(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*IOPHASE, *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )


class Raising:
    """A verb that fails.

    Examples:
      none
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def prepare_parser(self, parser: ArgumentParser) -> None:
        pass

    def run(self, args: Namespace) -> int:
        raise self.error


def outcome(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Return the exit code and stderr of a verb that raises ``error``."""
    monkeypatch.setattr(cli, "_load", lambda verb: Raising(error))
    monkeypatch.setattr(cli, "_abandon_stdout", lambda: None)
    code = cli.main(["doctor"])
    return code, capsys.readouterr().err


def test_version_is_that_of_the_distribution() -> None:
    assert iophase("--version").stdout == f"iophase {__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_examples(verb: str) -> None:
    process = iophase(verb, "--help")
    assert process.returncode == 0
    assert "examples:\n" in process.stdout
    assert f"iophase {verb}" in process.stdout.partition("examples:")[2]


def test_the_help_lists_every_verb_with_its_summary() -> None:
    text = iophase("--help").stdout
    for verb in VERBS:
        assert re.search(rf"^ +{verb} +[A-Z]", text, re.MULTILINE), verb


def test_an_unknown_verb_is_wrong_usage_with_a_suggestion() -> None:
    process = iophase("reprot", "x")
    assert process.returncode == 2
    assert process.stderr == "iophase: no verb 'reprot'; did you mean 'report'?\n"
    assert "the verbs are" in iophase("zzz").stderr


@pytest.mark.parametrize(
    "arguments", [[], ["doctor", "--nonsense"], ["report"], ["serve", "telepathy"], ["--nonsense"]]
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str]) -> None:
    process = iophase(*arguments)
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.startswith("iophase") and process.stderr.count("\n") == 1


LONG = "x" * 300


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["record", "--cgroup", LONG], "cgroup"),
        (["record", "-p", "1", "--sample", f"1/{10**23}"], "1/N"),
        (["record", "-p", "1", "--ring", "4096"], "2048 MiB"),
        (["export", "/"], "not a trace"),
        (["load", f"{LONG}:80"], "host not found"),
        (["load", "\udcff:80"], "host not found"),
        (["load", f"unix:/{LONG}"], "107 bytes"),
        (["serve", "epoll", "--host", LONG], "cannot listen"),
        (["serve", "epoll", "--backlog", str(10**11)], "--backlog"),
        (["serve", "epoll", "--buffer", str(10**12)], "--buffer"),
        (["serve", "epoll", "--unix", f"/{LONG}"], "too long"),
    ],
)
def test_nonsense_is_one_line(arguments: list[str], said: str) -> None:
    process = iophase(*arguments)
    assert process.returncode in (1, 2)
    assert process.stderr.count("\n") == 1 and said in process.stderr
    assert process.stdout == ""


def test_a_failure_is_one_line_on_stderr_with_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(IophaseError("no such thing", 2), monkeypatch, capsys) == (
        2,
        "iophase: no such thing\n",
    )


def test_ctrl_c_is_one_line_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(KeyboardInterrupt(), monkeypatch, capsys) == (1, "iophase: interrupted\n")


def test_a_reader_that_has_gone_is_no_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(BrokenPipeError(), monkeypatch, capsys) == (1, "")


def test_a_full_disk_is_one_line_that_names_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "traces/epoll")
    code, stderr = outcome(full, monkeypatch, capsys)
    assert code == 1
    assert "traces/epoll" in stderr and "No space left" in stderr


def test_what_belongs_to_somebody_else_is_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = PermissionError(errno.EACCES, "Permission denied", "traces/epoll")
    code, stderr = outcome(closed, monkeypatch, capsys)
    assert code == 1
    assert stderr.startswith("iophase: traces/epoll: Permission denied; ")
    assert stderr.count("\n") == 1


def test_a_current_directory_that_is_gone_is_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = ["sh", "-c", 'rmdir "$1"; shift; exec "$@"', "sh", str(gone), *IOPHASE]
    process = subprocess.run(
        [*command, "export", "x"],
        cwd=gone,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert process.stderr.splitlines() == [
        "iophase: the current directory is gone; change into another one"
    ]


def test_other_errors_of_the_system_are_not_hidden(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OSError, match="Bad file"):
        outcome(OSError(errno.EBADF, "Bad file descriptor"), monkeypatch, capsys)


def test_a_closed_pipe_ends_the_real_program_quietly() -> None:
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen([*IOPHASE, "models"], stdout=write, stderr=subprocess.PIPE) as process:
        os.close(write)
        _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (1, b"")


def test_a_trace_may_have_any_name(tmp_path: Path) -> None:
    trace = os.fsencode(make_trace(tmp_path / os.fsdecode(b"any\xff<b>")))
    page = tmp_path / "page.html"
    for read in (trace, trace + b".parquet"):
        for arguments in (["report"], ["report", "--json"], ["report", "--html", str(page)]):
            if read.endswith(b".parquet") and arguments == ["report"]:
                iophase("export", os.fsdecode(trace))
                iophase("export", "--perfetto", os.fsdecode(trace))
            process = iophase(*arguments, os.fsdecode(read))
            assert (process.returncode, process.stderr) == (0, "")
        assert r"any\xff&lt;b&gt;" in page.read_text(encoding="utf-8")
        page.unlink()
    assert Path(os.fsdecode(trace + b".pftrace")).stat().st_size > 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_outputs_are_no_trouble(closed: str, tmp_path: Path) -> None:
    make_trace(tmp_path / "epoll")
    page = tmp_path / "page.html"
    for arguments in (["report"], ["report", "--html", str(page)], ["export"]):
        verb = [*IOPHASE, *arguments, str(tmp_path / "epoll")]
        shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *verb]
        process = subprocess.run(shell, capture_output=True, text=True, check=False)
        assert (process.returncode, process.stderr) == (0, "")
    assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_a_full_standard_output_ends_the_real_program_with_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [*IOPHASE, "models"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert process.returncode == 1
    assert process.stderr.count("\n") == 1 and "No space left" in process.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["doctor"]])
def test_help_and_doctor_start_within_half_a_second_of_cpu(arguments: list[str]) -> None:
    iophase(*arguments)  # fills the caches
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    iophase(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    assert used <= 0.5


def test_models_lists_every_model_with_its_calls() -> None:
    from servers.models import MODELS

    text = iophase("models").stdout
    listed = json.loads(iophase("models", "--json").stdout)
    assert [entry["name"] for entry in listed] == [model.name for model in MODELS]
    for model in MODELS:
        assert re.search(rf"^ +{model.name} +.*{re.escape(model.summary)}$", text, re.MULTILINE)


@pytest.fixture
def server() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*IOPHASE, "serve", "poll"], stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def test_serve_and_load_agree_on_a_known_number_of_messages(
    server: subprocess.Popen[str],
) -> None:
    assert server.stdout is not None
    address = server.stdout.readline().split()[-1]
    load = iophase("load", address, "-c", "3", "--messages", str(PRIME), "--size", "101", "--json")
    server.send_signal(signal.SIGTERM)
    served = json.loads(server.stdout.readline())
    assert server.wait(10) == 0
    result = json.loads(load.stdout)
    assert load.returncode == 0
    assert result["messages"] == result["verified"] == PRIME
    assert served["connections"] == 3
    assert served["bytes_received"] == result["bytes_sent"] == PRIME * 101


def test_load_on_a_port_where_nobody_listens_is_one_line() -> None:
    process = iophase("load", "127.0.0.1:1", "--messages", "1")
    assert process.returncode == 1
    assert process.stderr.startswith("iophase: 127.0.0.1:1: ") and process.stderr.count("\n") == 1


def test_report_prints_a_trace_within_100_columns_without_escapes(tmp_path: Path) -> None:
    make_trace(tmp_path / "epoll", "epoll")
    process = iophase("report", str(tmp_path))
    assert process.returncode == 0
    assert "epoll" in process.stdout and "\033" not in process.stdout
    assert max(map(len, process.stdout.splitlines())) <= 100


def test_report_as_json_is_one_document(tmp_path: Path) -> None:
    make_trace(tmp_path / "epoll", "epoll")
    document = json.loads(iophase("report", "--json", str(tmp_path)).stdout)
    assert [trace["model"] for trace in document["traces"]] == ["epoll"]


@pytest.mark.parametrize("kind", ["nothing", "empty", "file"])
def test_report_of_what_is_no_trace_is_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "empty":
        path.mkdir()
    elif kind == "file":
        path.write_text("calls")
    process = iophase("report", str(path))
    assert process.returncode == 1
    assert str(path) in process.stderr and process.stderr.count("\n") == 1


def test_report_as_a_page_is_never_written_over_another_without_force(tmp_path: Path) -> None:
    make_trace(tmp_path / "epoll", "epoll")
    page = tmp_path / "page.html"
    arguments = ("report", str(tmp_path / "epoll"), "--html", str(page))
    assert iophase(*arguments).returncode == 0
    assert "<html" in page.read_text()
    page.write_text("mine")
    refused = iophase(*arguments)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    assert page.read_text() == "mine"
    assert iophase(*arguments, "--force").returncode == 0
    assert "<html" in page.read_text()


@pytest.mark.parametrize(("option", "made"), [("--parquet", "parquet"), ("--perfetto", "pftrace")])
def test_export_writes_beside_the_trace(tmp_path: Path, option: str, made: str) -> None:
    make_trace(tmp_path / "epoll", "epoll")
    process = iophase("export", str(tmp_path / "epoll"), option)
    assert process.returncode == 0
    assert str(tmp_path / f"epoll.{made}") in process.stdout
    assert (tmp_path / f"epoll.{made}").exists()
    assert iophase("export", str(tmp_path / "epoll"), option).returncode == 1
    assert iophase("export", str(tmp_path / "epoll"), option, "--force").returncode == 0


@pytest.mark.parametrize("verb", ["report", "export"])
def test_a_trace_that_was_cut_short_is_completed_before_it_is_read(
    tmp_path: Path, verb: str
) -> None:
    path = tmp_path / "trace"
    clock = Clock(monotonic_ns=10**9, realtime_ns=10**18)
    info = TraceInfo("0.1", "6.1", "x86_64", "tracepoint", clock, started=10**9)
    directory = create(path, info, CALLS)
    records = np.zeros(PRIME, CALL)
    records["kind"] = KINDS["CALL"]
    records["ts"] = 10**9 + np.arange(PRIME) * 1000
    records["duration"] = records["sleep"] = 500
    records["call"] = next(index for index, call in enumerate(CALLS) if call.name == "recvfrom")
    records["pid"] = records["tid"] = 4242
    directory.spool.append(records)
    directory.spool.close()  # as a process that dies leaves it

    process = iophase(verb, str(path))
    assert process.returncode == 0
    assert f"{path}: was cut short" in process.stderr
    assert json.loads((path / "trace.json").read_text())["recorded"]["calls"] == PRIME
    assert "cut short" not in iophase(verb, str(path), *["--force"][: verb == "export"]).stderr


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completions_know_every_verb_and_its_options(shell: str) -> None:
    shtab = pytest.importorskip("shtab")
    script = shtab.complete(cli.build_parser(), shell)
    for name in (*VERBS, "--perfetto", "--duration"):
        assert name in script, name
