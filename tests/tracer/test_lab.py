"""The lab, with a real guest: what goes in, what comes out, and that nothing stays behind."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tracer.errors import USAGE, IophaseError
from tracer.lab import EMULATOR, LabResult, run_in_lab
from tracer.lab_clock import tsc_khz
from tracer.lab_kernels import fetch, kernel_named

SERIES = os.environ.get("IOPHASE_LAB_KERNEL", "6.1")
"""The kernel of these tests: what BPF does in this one and others is tested in test_kernels.py."""

ORDINARY = 65534
"""Somebody who is not root."""
GUEST_TIMEOUT_S = 240.0  # emulation on a machine that is busy with other tests

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif("IOPHASE_LAB" in os.environ, reason="this is the lab's guest already"),
]


@pytest.fixture(scope="module", autouse=True)
def guest_possible() -> None:
    """Skip where the lab cannot work: without QEMU, or without cached kernel and mirror."""
    import shutil

    if shutil.which(EMULATOR) is None:
        pytest.skip(f"no {EMULATOR}: install the package qemu-system-x86")
    try:
        fetch(kernel_named(SERIES), progress=False)
    except IophaseError as error:
        pytest.skip(str(error))


def in_guest(
    output: Path, *command: str, timeout_s: float = GUEST_TIMEOUT_S
) -> tuple[LabResult, bytes, bytes]:
    """Run a command in a guest and return the result and what it wrote to stdout and stderr."""
    stdout, stderr = io.BytesIO(), io.BytesIO()
    result = run_in_lab(
        SERIES, command, output=output, timeout_s=timeout_s, stdout=stdout, stderr=stderr
    )
    return result, stdout.getvalue(), stderr.getvalue()


def emulators_of(parent: int) -> list[psutil.Process]:
    return [p for p in psutil.Process(parent).children(recursive=True) if EMULATOR in p.name()]


def wait_until(what: str, condition: object, timeout_s: float = 30.0) -> None:
    assert callable(condition)
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not in {timeout_s} s: {what}"
        time.sleep(0.02)


def test_the_guest_is_another_kernel_on_this_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    ours = tmp_path.parent / "ours"
    ours.write_text("from outside")
    script = f"""
        uname -r; pwd; readlink -f /proc/$$/exe; cat {ours}; id -u; nproc; ulimit -n
        echo "$IOPHASE_LAB"; echo "$PATH"
        grep -c . /proc/net/dev_mcast >/dev/null; cat /sys/class/net/lo/operstate
        ls -d /sys/kernel/tracing/events /sys/fs/bpf /sys/fs/cgroup/cgroup.procs /dev/pts/ptmx
        echo changed > {ours}; cat {ours}
        cat; echo to stderr >&2; exit 7
    """
    result, stdout, stderr = in_guest(tmp_path, "sh", "-c", script)
    lines = stdout.decode().splitlines()
    assert result.exit_code == 7
    assert lines[0] == result.release
    assert lines[0].startswith(f"{SERIES}.")
    shell = str(Path("/bin/sh").resolve())
    soft = str(os.sysconf("SC_OPEN_MAX"))
    path = "/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
    assert lines[1:7] == [str(Path.cwd()), shell, "from outside0", "2", soft, SERIES]
    assert lines[7:9] == [path, "unknown"]
    assert lines[9:13] == [
        *("/dev/pts/ptmx", "/sys/fs/bpf", "/sys/fs/cgroup/cgroup.procs"),
        "/sys/kernel/tracing/events",
    ]
    assert lines[13:] == ["changed"]
    assert stderr == b"to stderr\n"
    assert ours.read_text() == "from outside"
    assert 0 < result.boot_s < result.total_s


class Stamped(io.BytesIO):
    """Notes when what is written came."""

    def __init__(self) -> None:
        super().__init__()
        self.came: list[float] = []

    def write(self, block: Any) -> int:
        self.came.append(time.monotonic())
        return super().write(block)


def test_the_guests_clock_runs_like_ours(tmp_path: Path) -> None:
    said = Stamped()
    script = "cat /proc/uptime; sleep 4; cat /proc/uptime"
    run_in_lab(SERIES, ("sh", "-c", script), output=tmp_path, timeout_s=240.0, stdout=said)
    began, ended = (float(line.split()[0]) for line in said.getvalue().splitlines())
    # A line may come late from a busy machine; a rate measured there was wrong by factors.
    assert 0.5 < (ended - began) / (said.came[-1] - said.came[0]) < 2.0
    first, second = tsc_khz(), tsc_khz()
    assert first and second
    assert abs(first - second) < first / 1000


def test_a_terminal_is_told_of_a_guest_that_has_not_said_a_word(tmp_path: Path) -> None:
    lab = (sys.executable, "-m", "tracer", "lab", "--exec", "--output", str(tmp_path), SERIES, "--")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*lab, "sh", "-c", "sleep 3; echo done"],
        env=os.environ | {"TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as iophase:
        os.close(theirs)
        told = b""
        with contextlib.suppress(OSError), os.fdopen(ours, "rb", buffering=0) as terminal:
            while block := terminal.read(4096):  # EIO: nobody has the other end open (pty(7))
                told += block
        assert iophase.stdout is not None
        assert iophase.stdout.read() == b"done\n"
    assert iophase.returncode == 0
    assert b"is emulated: no word yet ... 2 s" in told
    assert told.endswith(b"\r\x1b[K")


def test_output_is_byte_clean_and_files_come_out_whole(tmp_path: Path) -> None:
    program = """
import hashlib, mmap, os, sys
block = bytes(range(256)) * 4096
sys.stdout.buffer.write(block); sys.stdout.buffer.flush()
sys.stderr.buffer.write(block[::-1]); sys.stderr.buffer.flush()
os.mkdir("new directory")
with open("new directory/written.partial", "wb") as f:
    for i in range(0, len(block), 1000):
        f.write(block[i : i + 1000])
        f.flush()
os.rename("new directory/written.partial", "new directory/written")
with open("mapped", "w+b") as f:
    f.truncate(1 << 20)
    with mmap.mmap(f.fileno(), 1 << 20) as m:
        m[:] = block
with open("appended", "ab") as f:
    f.write(b" and more")
os.unlink("removed")
os.execvp("sh", ["sh", "-c", "(sleep 1000 &) ; exit 0"])
"""
    (tmp_path / "appended").write_bytes(b"some")
    (tmp_path / "removed").touch()
    command = (sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r})\n{program}")
    result, stdout, stderr = in_guest(tmp_path, *command)
    block = bytes(range(256)) * 4096
    assert result.exit_code == 0
    assert hashlib.sha256(stdout).digest() == hashlib.sha256(block).digest()
    assert hashlib.sha256(stderr).digest() == hashlib.sha256(block[::-1]).digest()
    assert (tmp_path / "new directory" / "written").read_bytes() == block
    assert (tmp_path / "mapped").read_bytes() == block
    assert (tmp_path / "appended").read_bytes() == b"some and more"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "appended",
        "mapped",
        "new directory",
    ]
    assert (tmp_path / "mapped").stat().st_uid == os.geteuid()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a directory to somebody")
def test_an_ordinary_users_guest_writes_as_that_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root of the guest, who gives up the right to write what belongs to others, becomes them."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, ORDINARY, ORDINARY)
    monkeypatch.setattr(os, "geteuid", lambda: ORDINARY)
    monkeypatch.setattr(os, "getegid", lambda: ORDINARY)
    program = "from tracer import privileges; import os; privileges.drop(); os.mkdir('traces')"
    command = (sys.executable, "-c", f"import os; os.chdir({str(theirs)!r})\n{program}")
    result, _, stderr = in_guest(theirs, *command)
    assert result.exit_code == 0, stderr
    assert (theirs / "traces").stat().st_uid == ORDINARY


def test_networks_can_be_shaped_in_the_guest(tmp_path: Path) -> None:
    program = """
from pyroute2 import IPRoute, NetNS
with IPRoute() as ip:
    ip.link("add", ifname="one", kind="veth", peer="two")
    index = ip.link_lookup(ifname="one")[0]
    ip.tc("add", "netem", index, delay=50000)
    ip.tc("add", "tbf", ip.link_lookup(ifname="two")[0], rate="1mbit", latency="10ms", burst=1540)
    print([dict(q["attrs"])["TCA_KIND"] for q in ip.get_qdiscs() if q["index"] > 1][:2])
with NetNS("apart") as other:
    print(len(other.get_links()))
"""
    result, stdout, stderr = in_guest(tmp_path, sys.executable, "-c", program)
    assert (result.exit_code, stderr) == (0, b"")
    assert b"netem" in stdout
    assert b"tbf" in stdout


def test_a_panic_is_an_error_with_the_consoles_last_lines(tmp_path: Path) -> None:
    script = (
        "echo before; echo precious > file; sync; sleep 2; echo c > /proc/sysrq-trigger; sleep 60"
    )
    stdout = io.BytesIO()
    command = ("sh", "-c", f"cd {tmp_path}; {script}")
    with pytest.raises(IophaseError) as caught:
        run_in_lab(SERIES, command, output=tmp_path, timeout_s=GUEST_TIMEOUT_S, stdout=stdout)
    first, *console = str(caught.value).splitlines()
    assert "Kernel panic - not syncing: sysrq triggered crash" in first
    assert SERIES in first
    assert any("sysrq_handle_crash" in line for line in console)
    assert stdout.getvalue() == b"before\n"
    assert (tmp_path / "file").read_text() == "precious\n"
    assert not emulators_of(os.getpid())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system: needs root")
def test_files_that_did_not_fit_are_an_error(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "none", small])
    if mounted.returncode:
        pytest.skip("cannot mount here")
    try:
        with pytest.raises(IophaseError, match=f"no space left for {small}"):
            in_guest(small, "sh", "-c", f"head -c 2000000 /dev/zero > {small}/large")
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_command_that_never_ends_is_ended(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(IophaseError, match="no end after 8 s"):
        in_guest(tmp_path, "sleep", "1000", timeout_s=8.0)
    assert time.monotonic() - started < 13
    assert not emulators_of(os.getpid())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_emulator_outlives_a_killed_iophase(how: signal.Signals, tmp_path: Path) -> None:
    program = (
        "import sys; from tracer.cli import main; from tracer.commands.lab import Lab\n"
        "from tracer.lab import run_in_lab\nfrom pathlib import Path\n"
        f"run_in_lab({SERIES!r}, ['sleep', '1000'], output=Path({str(tmp_path)!r}), timeout_s=300)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) as iophase:
        wait_until("QEMU runs", lambda: emulators_of(iophase.pid))
        (emulator,) = emulators_of(iophase.pid)
        time.sleep(1.0)
        iophase.send_signal(how)
        iophase.wait(10)
    wait_until("QEMU is gone", lambda: not psutil.pid_exists(emulator.pid), 10)
    assert not list(tmp_path.iterdir())


def test_root_is_never_shared_for_writing() -> None:
    with pytest.raises(IophaseError, match="--output") as caught:
        in_guest(Path("/"), "true")
    assert caught.value.exit_code == USAGE


def test_a_missing_output_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(IophaseError, match=f"no directory {tmp_path}/gone"):
        in_guest(tmp_path / "gone", "true")


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(IophaseError, match="no program 'no-such-program'") as caught:
        in_guest(tmp_path, "no-such-program")
    assert caught.value.exit_code == USAGE


def test_without_qemu_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(IophaseError, match="install the package qemu-system-x86"):
        in_guest(tmp_path, "true")


def test_an_emulator_that_does_not_start_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / EMULATOR
    broken.write_text("#!/bin/sh\necho 'cannot set up guest memory' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(IophaseError, match="ended while booting: cannot set up guest memory"):
        in_guest(tmp_path, "true")
