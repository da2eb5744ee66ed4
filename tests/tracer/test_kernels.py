"""The tests of every backend, each run inside a stock kernel: `make lab` runs one alone."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import REQUIRE_LIVE, refusal
from tracer.errors import IophaseError
from tracer.lab import EMULATOR, run_in_lab
from tracer.lab_kernels import fetch, kernel_named
from tracer.supported_kernels import KERNELS

GUEST_TIMEOUT_S = 1500.0
"""Emulated, and on a machine that does something else besides; alone it takes a fifth."""

REPRESENTATIVE = ("sigio", "posix-aio", "native-aio-poll", "io_uring", "io_uring-sqpoll")
"""Beside those of the article: a way of its own each, in which data is taken."""

MODELS = () if "IOPHASE_LAB_KERNELS" in os.environ else REPRESENTATIVE
"""`make lab` runs the servers of all models: minutes more for a kernel."""

CHOSEN = os.environ.get("IOPHASE_LAB_KERNELS", f"6.1 {KERNELS[-1].series}").split()
"""The oldest stable kernel that is in wide use, and the newest; `make lab` names others."""

IN_THE_LAB = tuple(
    f"tests/{name}"
    for name in (
        *("live/test_calls.py", "live/test_closing.py", "live/test_deliveries.py"),
        *("live/test_following.py", "live/test_loss.py", "live/test_threads.py"),
        "live/test_pauses.py::test_a_server_that_polls_spends_the_pauses_spinning",
        "live/test_pauses.py::test_a_pause_of_50_ms_is_slept_in_the_call_that_waits[epoll]",
        "live/test_recognition.py::test_the_model_of_a_reference_server_is_recognised[epoll]",
        "live/test_transports.py::test_every_datagram_is_received_and_delivered_once[epoll]",
        "live/test_run.py::test_the_load_is_that_of_the_load_generator",
        "live/test_interrupts.py"
        "::test_a_signal_while_recording_keeps_all_and_prints_the_summary[2]",
        "live/test_top.py::test_an_idle_server_is_shown_as_asleep_and_recognised",
        "live/test_trouble.py::test_losses_are_said_first_and_fail_only_a_strict_recording",
        *("tracer", "probes"),
    )
)
"""Of the live tests those that prove each thing once: emulated, all of them take hours.

Which models are measured right, tests/matrix says in its guests. Left to hosts that allow BPF are
crowds of connections and the speed of a copy, which an emulator does not have, and most tests of
the command itself, which takes half a minute to start.
"""

pytestmark = [
    pytest.mark.timeout(GUEST_TIMEOUT_S + 120),
    pytest.mark.skipif("IOPHASE_LAB" in os.environ, reason="this is the lab's guest already"),
]


def require_lab(series: str) -> None:
    """Skip without QEMU or kernel; fail where the live tests are required."""
    reason = None
    if shutil.which(EMULATOR) is None:
        reason = f"no {EMULATOR}: install the package qemu-system-x86"
    else:
        try:
            fetch(kernel_named(series), progress=False)
        except IophaseError as error:
            reason = str(error)
    if reason is None:
        return
    if os.environ.get(REQUIRE_LIVE) == "1":
        pytest.fail(f"{REQUIRE_LIVE}=1, but {reason}", pytrace=False)
    pytest.skip(f"{reason} (set {REQUIRE_LIVE}=1 to fail instead)")


@pytest.mark.parametrize("series", CHOSEN)
def test_every_backend_measures_the_truth_in_a_stock_kernel(
    series: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_lab(series)
    with capsys.disabled():
        assert run_tests(series, tmp_path, "tests/matrix", models=MODELS) == 0


@pytest.mark.timeout(2 * GUEST_TIMEOUT_S + 120)
@pytest.mark.skipif(refusal() is None, reason="they run on this host itself")
def test_the_live_tests_of_a_host_that_refuses_bpf_pass_in_the_lab(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_lab(CHOSEN[0])
    with capsys.disabled():
        options = ("-m", "live", "--timeout", "600")
        code = run_tests(CHOSEN[0], tmp_path, *options, *IN_THE_LAB, timeout_s=2 * GUEST_TIMEOUT_S)
        assert code == 0


def run_tests(
    series: str,
    output: Path,
    *arguments: str,
    models: Sequence[str] = (),
    timeout_s: float = GUEST_TIMEOUT_S,
) -> int:
    """Run pytest in a guest as root, and return its exit code."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore"]
    result = run_in_lab(
        series,
        [*command, "--tb=short", *arguments],
        output=output,
        timeout_s=timeout_s,
        environment={REQUIRE_LIVE: "1", "IOPHASE_TEST_MODELS": " ".join(models)},
        progress=False,
    )
    assert result.release.startswith(f"{series}.")
    return result.exit_code
