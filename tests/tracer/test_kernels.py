"""The tests of every backend, each run inside a stock kernel: `make lab` runs one alone.

An emulator keeps one CPU busy, so the guests run side by side.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import pytest

from tests.conftest import REQUIRE_LIVE, refusal
from tracer.errors import IophaseError
from tracer.lab import EMULATOR
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
        *("live/test_calls.py", "live/test_closing.py", "live/test_datagrams.py"),
        *("live/test_deliveries.py", "live/test_following.py", "live/test_loss.py"),
        *("live/test_pauses.py", "live/test_room.py", "live/test_submitting.py"),
        "live/test_threads.py",
        "live/test_recognition.py::test_the_model_of_a_reference_server_is_recognised[epoll]",
        "live/test_transports.py::test_every_datagram_is_received_and_delivered_once[epoll]",
        "live/test_interrupts.py"
        "::test_a_signal_while_recording_keeps_all_and_prints_the_summary[2]",
        "live/test_interrupts.py"
        "::test_a_tool_that_is_killed_leaves_no_server_and_a_trace_that_can_be_completed",
        "live/test_run.py"
        "::test_every_transport_is_traced_and_one_that_a_model_lacks_is_a_reason[udp]",
        "live/test_run.py::test_a_network_of_namespaces_is_traced_and_named_in_the_trace",
        "live/test_top.py::test_a_busy_server_is_shown_with_its_model_losses_and_cost"
        "[processes-process-epoll level]",
        "live/test_top.py::test_the_terminal_is_as_it_was_however_it_ends[q]",
        "live/test_trouble.py::test_a_target_that_ends_while_traced_ends_the_recording",
        "live/test_trouble.py"
        "::test_a_disk_that_fills_up_ends_the_recording_and_keeps_what_was_measured",
        *("tracer", "probes"),
    )
)
"""Of the live tests those that prove each thing once: emulated, all of them take hours.

Which models are measured right, tests/matrix says in its guests. Left to hosts that allow BPF are
crowds of connections and the speed of a copy, which an emulator does not have, real programs, which
may not be installed, and of the tests of the command all that would only repeat it: a recording
takes most of a minute there.
"""

AT_ONCE = len(os.sched_getaffinity(0))
LOOK_S = 0.2
"""From one look at what a guest says to the next."""

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


LAB = ("setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "tracer", "lab", "--exec")
PYTEST = (
    *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore"),
    *("--tb=short", "--basetemp=/run/pytest"),
)
"""In /run, because /tmp begins as this machine's, where an ordinary user may not enter root's."""

NOBODY_ELSE = ("--unset=SUDO_UID", "--unset=SUDO_GID")
"""An ordinary user's lab acts for that user, who may not enter the tests' folders in its memory."""


class Guest:
    """pytest in a guest, as root, in a process of its own; what it says goes to a file."""

    def __init__(
        self,
        series: str,
        output: Path,
        *arguments: str,
        models: Sequence[str] = (),
        timeout_s: float = GUEST_TIMEOUT_S,
    ) -> None:
        self._said = output / "said"
        lab = [*LAB, "--output", str(output), "--timeout", str(timeout_s), series, "--"]
        environment = [f"{REQUIRE_LIVE}=1", f"IOPHASE_TEST_MODELS={' '.join(models)}"]
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [*lab, "env", *NOBODY_ELSE, *environment, *PYTEST, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def result(self) -> int:
        """Repeat what it says until it ends; return the exit code."""
        with self._said.open("rb") as said:
            while True:
                exit_code = self._process.poll()
                sys.stdout.buffer.write(said.read())
                sys.stdout.flush()
                if exit_code is not None:
                    return exit_code
                time.sleep(LOOK_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait()


@pytest.fixture(scope="module")
def guest_of(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Guest]]:
    """Return a kernel's guest; those of the next tests are at work beside it.

    When one test is run alone, so is its guest.
    """
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    asked = [item for item in items if "guest_of" in item.fixturenames]
    kernels = [str(item.callspec.params["series"]) for item in asked]
    started: dict[str, Guest] = {}
    with contextlib.ExitStack() as stack:

        def guest_of(series: str) -> Guest:
            first = kernels.index(series)
            for one in kernels[first : first + AT_ONCE]:
                if one not in started:
                    require_lab(one)
                    output = tmp_path_factory.mktemp("guest")
                    guest = Guest(one, output, "tests/matrix", models=MODELS)
                    started[one] = stack.enter_context(guest)
            return started[series]

        yield guest_of


@pytest.mark.parametrize("series", CHOSEN)
def test_every_backend_measures_the_truth_in_a_stock_kernel(
    series: str, guest_of: Callable[[str], Guest], capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        assert guest_of(series).result() == 0


@pytest.mark.timeout(2 * GUEST_TIMEOUT_S + 120)
@pytest.mark.skipif(refusal() is None, reason="they run on this host itself")
def test_the_live_tests_of_a_host_that_refuses_bpf_pass_in_the_lab(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_lab(CHOSEN[0])
    options = ("-m", "live", "--timeout", "600")
    guest = Guest(CHOSEN[0], tmp_path, *options, *IN_THE_LAB, timeout_s=2 * GUEST_TIMEOUT_S)
    with capsys.disabled(), guest:
        assert guest.result() == 0
