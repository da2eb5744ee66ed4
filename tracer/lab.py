"""Runs a command inside a stock kernel: QEMU with software emulation, no root, no /dev/kvm.

The guest sees this machine's files; what it writes outside the output directory is thrown away.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import resource
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from tracer.errors import USAGE, IophaseError
from tracer.lab_clock import tsc_khz
from tracer.lab_guest import PORTS, Job, initramfs, kernel_command_line
from tracer.lab_kernels import CachedKernel, fetch, kernel_named
from tracer.progress import working

__all__ = ("EMULATOR", "LabResult", "run_in_lab")

EMULATOR = "qemu-system-x86_64"

CPUS = 2
MEMORY_MIB = 3072
"""The overlay lives in it as well; QEMU takes only what the guest touches."""

BOOT_TIMEOUT_S = 180.0
"""A guest is up after 2 to 5 s; on a machine that is busy with something else much later."""

CONSOLE_LINES = 25
"""How much of the console a failure shows: a panic with its call trace."""

_PANIC = "Kernel panic"
_CRASH = re.compile(rf"\b(BUG: |Oops: |{_PANIC})")
_NO_SPACE = 64 * 1024
_CONSOLE_KEPT = 64 * 1024
_LONGEST_JOB = 100_000  # fits into a socket's buffer (net.core.wmem_default is 208 KiB)
_PR_SET_PDEATHSIG = 1
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_PASSED_ON = ("HOME", "TERM", "LANG", "LC_ALL", "TZ", "NO_COLOR", "SUDO_UID", "SUDO_GID")


@dataclass(frozen=True)
class LabResult:
    """How a command in the guest ended, and how long it took to get there."""

    exit_code: int
    release: str
    boot_s: float
    total_s: float


def run_in_lab(
    series: str,
    command: Sequence[str],
    *,
    timeout_s: float,
    output: Path | None = None,
    environment: dict[str, str] | None = None,
    stdout: BinaryIO | None = None,
    stderr: BinaryIO | None = None,
    progress: bool = True,
) -> LabResult:
    """Run ``command`` in the kernel of this series, here: same directory, same files.

    Its output is written to ``stdout`` and ``stderr`` (default: this process's) as it comes. Only
    ``output`` (default: the current directory) is shared read-write. Raises ``IophaseError`` when
    the kernel cannot be had or booted, panics, or takes longer than ``timeout_s``.
    """
    kernel = kernel_named(series)
    emulator = _emulator()
    directory = Path.cwd()
    shared = (output or directory).absolute()
    _require_shareable(shared)
    cached = fetch(kernel, progress=progress)
    job = Job(
        command=[_program(command[0]), *command[1:]],
        directory=directory,
        output=shared,
        environment=_environment(series) | (environment or {}),
        open_files=_open_files(),
    )
    guest = _Guest(cached, stdout or sys.stdout.buffer, stderr or sys.stderr.buffer)
    try:
        if progress:
            guest.silence.enter_context(
                working(f"kernel {cached.release} is emulated: no word yet")
            )
        guest.start(emulator, shared)
        result = guest.run(job, timeout_s)
    finally:
        guest.close()
    # The guest writes behind: its command has not been told what did not fit.
    if shutil.disk_usage(shared).free < _NO_SPACE:
        raise IophaseError(
            f"no space left for {shared}: what the guest wrote there is incomplete; make room"
        )
    return result


def _program(name: str) -> str:
    """Return the program's path: by its name alone the guest's first shell runs busybox's own."""
    path = shutil.which(name)
    if path is None:
        raise IophaseError(f"no program {name!r} to run in the lab", USAGE)
    return str(Path(path).absolute())


def _emulator() -> str:
    if platform.machine() != "x86_64":
        raise IophaseError(
            f"the lab boots x86-64 kernels on an x86-64 system, and this one is "
            f"{platform.machine()}: run the verb natively"
        )
    path = shutil.which(EMULATOR)
    if path is None:
        raise IophaseError(f"no {EMULATOR} on this machine: install the package qemu-system-x86")
    return path


def _require_shareable(output: Path) -> None:
    if output == Path("/"):
        raise IophaseError(
            "the guest would write all over /: change into another directory, or name one with "
            "--output",
            USAGE,
        )
    if not output.is_dir():
        raise IophaseError(f"no directory {output}: make it first", USAGE)
    if not os.access(output, os.W_OK | os.X_OK):
        raise IophaseError(f"cannot write into {output}: name another directory with --output")


def _environment(series: str) -> dict[str, str]:
    columns = shutil.get_terminal_size().columns
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {
        "USER": "root",
        "PATH": _path_of_root(),
        "COLUMNS": str(columns),
        # Output through a pipe would come in blocks of 8 KiB.
        "PYTHONUNBUFFERED": "1",
        "IOPHASE_LAB": series,
        **_caller(),
    }


def _path_of_root() -> str:
    """Return PATH, with the folders of root's own commands, which an ordinary user's lacks."""
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join([*path, *(sbin for sbin in _SBIN if sbin not in path)])


def _caller() -> dict[str, str]:
    """Name an ordinary user as sudo does: the guest's root gives up writing for others."""
    if os.geteuid() == 0:
        return {}
    return {"SUDO_UID": str(os.geteuid()), "SUDO_GID": str(os.getegid())}


def _open_files() -> tuple[int, int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft, hard


def _die_with(parent: int) -> Callable[[], None]:
    """Return a function for the child: to be killed when the parent ends, however it ends."""
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


@dataclass
class _Guest:
    """A running QEMU, the sockets to its console and ports, and what the guest said on them."""

    kernel: CachedKernel
    stdout: BinaryIO
    stderr: BinaryIO
    process: subprocess.Popen[bytes] | None = None
    channels: dict[str, socket.socket] = field(default_factory=dict)
    console: bytearray = field(default_factory=bytearray)
    complaints: bytearray = field(default_factory=bytearray)
    said: bytearray = field(default_factory=bytearray)
    started: float = field(default_factory=time.monotonic)
    boot_s: float | None = None
    exit_code: int | None = None
    silence: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """What is to last until the command says something."""

    def start(self, emulator: str, output: Path) -> None:
        """Start QEMU with one socket for the console, its own messages, and each port."""
        ends: dict[str, socket.socket] = {}
        try:
            for name in ("console", "complaints", *PORTS):
                self.channels[name], ends[name] = socket.socketpair()
                self.channels[name].setblocking(False)
            self.process = subprocess.Popen(
                _qemu(emulator, self.kernel, output, {n: end.fileno() for n, end in ends.items()}),
                stdin=subprocess.DEVNULL,
                stdout=ends["complaints"].fileno(),
                stderr=ends["complaints"].fileno(),
                pass_fds=[end.fileno() for end in ends.values()],
                # Ctrl-C is for us: QEMU is ended in an orderly way afterwards.
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),
            )
        finally:
            for end in ends.values():
                end.close()

    def run(self, job: Job, timeout_s: float) -> LabResult:
        """Send the job, stream what comes, and return when the guest says how it ended."""
        self._send(job.script(self.kernel))
        with selectors.DefaultSelector() as selector:
            for name, channel in self.channels.items():
                selector.register(channel, selectors.EVENT_READ, name)
            while selector.get_map() and self.exit_code is None:
                limit_s = timeout_s if self.boot_s is not None else min(timeout_s, BOOT_TIMEOUT_S)
                left_s = self.started + limit_s - time.monotonic()
                if left_s <= 0:
                    raise self._failure(f"no end after {limit_s:.0f} s", "was ended")
                for key, _ in selector.select(left_s):
                    if not self._receive(key.data):
                        selector.unregister(key.fileobj)
            self.end()
            for name in ("stdout", "stderr", "console"):
                while self._receive(name):
                    pass
        if self.exit_code is None:
            raise self._failure(self._cause(), "ended")
        assert self.boot_s is not None
        total_s = time.monotonic() - self.started
        return LabResult(self.exit_code, self.kernel.release, self.boot_s, total_s)

    def end(self) -> None:
        """Kill QEMU, if it still runs; what it has sent can be read afterwards."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """Kill QEMU and close the sockets."""
        self.silence.close()
        self.end()
        for channel in self.channels.values():
            channel.close()

    def _send(self, script: str) -> None:
        """Leave the job in the control socket, where QEMU fetches it when the guest asks."""
        if len(script) > _LONGEST_JOB:
            raise IophaseError("the command is too long for the lab: put it into a file", USAGE)
        # When QEMU has ended already, what it said about it is read next.
        with contextlib.suppress(BrokenPipeError):
            self.channels["control"].sendall(script.encode(errors="surrogateescape"))

    def _receive(self, name: str) -> bool:
        """Take what a channel holds; return False at its end."""
        try:
            block = self.channels[name].recv(1 << 16)
        except (BlockingIOError, ConnectionResetError):
            return False
        if name in ("stdout", "stderr"):
            self.silence.close()
            stream = self.stdout if name == "stdout" else self.stderr
            stream.write(block)
            stream.flush()
        elif name == "control":
            self.said += block
            self._listen()
        else:
            kept = self.console if name == "console" else self.complaints
            kept += block
            del kept[:-_CONSOLE_KEPT]
        return bool(block)

    def _listen(self) -> None:
        while b"\n" in self.said:
            line, _, rest = self.said.partition(b"\n")
            self.said = rest
            word, _, text = line.decode(errors="replace").partition(" ")
            if word == "ready":
                self.boot_s = time.monotonic() - self.started
            elif word == "exit":
                self.exit_code = int(text)
            elif word == "failed":
                raise self._failure(text, "could not run the command")

    def _cause(self) -> str:
        for line in self._console_lines():
            if _PANIC in line:
                return line[line.index(_PANIC) :]
        complaints = self.complaints.decode(errors="replace").strip().splitlines()
        return complaints[-1] if complaints else "without a word from the command"

    def _console_lines(self) -> list[str]:
        text = self.console.decode(errors="replace").replace("\r", "")
        return [line for line in text.splitlines() if line.strip()]

    def _last_lines(self) -> list[str]:
        """Return the console's end; of a crash rather its beginning, registers are of no use."""
        lines = self._console_lines()
        first = next((i for i, line in enumerate(lines) if _CRASH.search(line)), len(lines))
        return lines[first : first + CONSOLE_LINES] or lines[-CONSOLE_LINES:]

    def _failure(self, cause: str, what: str) -> IophaseError:
        stage = "" if self.boot_s is not None else " while booting"
        console = "\n".join(f"  | {line}" for line in self._last_lines())
        return IophaseError(
            f"the guest with kernel {self.kernel.release} {what}{stage}: {cause}; "
            f"its console's last lines:\n{console or '  | (nothing)'}"
        )


def _qemu(emulator: str, kernel: CachedKernel, output: Path, sockets: dict[str, int]) -> list[str]:
    # With a thread per vCPU one does not always see the code that another has changed: when probes
    # were attached 6.18 and 7.3 panicked (Oops: int3), and 6.1 met the same int3 for ever.
    command = [
        emulator,
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        # q35's virtio devices interrupt by MSI-X: 0.3 s sooner up than pc's.
        *("-machine", "q35", "-accel", "tcg,thread=single", "-cpu", "max"),
        *("-smp", str(CPUS), "-m", f"{MEMORY_MIB}M"),
        *("-kernel", str(kernel.image), "-initrd", str(initramfs(kernel))),
        *("-append", kernel_command_line(tsc_khz())),
        *("-chardev", f"socket,id=console,fd={sockets['console']}", "-serial", "chardev:console"),
        *("-device", "virtio-serial-pci"),
    ]
    for number, name in enumerate(PORTS, start=1):
        command += ["-chardev", f"socket,id={name},fd={sockets[name]}"]
        command += ["-device", f"virtserialport,chardev={name},name={name},nr={number}"]
    for name, path, access in (("root", "/", "on"), ("output", str(output), "off")):
        quoted = path.replace(",", ",,")
        command += [
            "-fsdev",
            f"local,id={name},path={quoted},security_model=none,multidevs=remap,readonly={access}",
        ]
        command += ["-device", f"virtio-9p-pci,fsdev={name},mount_tag={name}"]
    return command
