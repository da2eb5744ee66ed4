"""What can be known of this host without attaching anything: privileges, BTF, BCC, settings."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tracer.errors import IophaseError
from tracer.privileges import effective

__all__ = ("BTF", "Check", "Host", "checks", "inspect", "own_pids", "require_tracing", "tracefs")

BTF = Path("/sys/kernel/btf/vmlinux")
"""The types of the running kernel (CONFIG_DEBUG_INFO_BTF)."""

_TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
_KPROBE_PMU = Path("/sys/bus/event_source/devices/kprobe")
_LOCKDOWN = Path("/sys/kernel/security/lockdown")
_CGROUP2 = Path("/sys/fs/cgroup/cgroup.controllers")
_PID_NAMESPACE = Path("/proc/self/ns/pid")
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
"""PROC_PID_INIT_INO (include/linux/proc_ns.h)."""

Status = Literal["ok", "limited", "missing"]


@dataclass(frozen=True)
class Host:
    """The facts; None where the kernel does not say."""

    kernel: str
    arch: str
    cpus: int
    root: bool
    capabilities: tuple[str, ...]
    """Effective capabilities, of those that tracing touches."""
    btf: bool
    bcc: str | None
    """Version of the distribution's BCC package."""
    bcc_error: str | None
    tracefs: str | None
    """Where tracefs is mounted; raw tracepoints and function probes do without it."""
    kprobes: bool
    """The kernel has the kprobe event source (CONFIG_KPROBE_EVENTS)."""
    unprivileged_bpf_disabled: int | None
    io_uring_disabled: int | None
    perf_event_paranoid: int | None
    lockdown: str | None
    """Lockdown mode: none, integrity or confidentiality."""
    cgroup2: bool
    qemu: str | None
    """The emulator that ``iophase lab`` would use."""
    own_pids: bool = False
    """This is a PID namespace of its own: the probes see other numbers than /proc shows."""
    bpf_error: str | None = None
    """Why the kernel refuses a program that does nothing; None if it does not, or was not asked."""

    @property
    def may_load(self) -> bool:
        """Whether the capabilities suffice to load tracing programs (capabilities(7), CAP_BPF)."""
        has = set(self.capabilities)
        return "CAP_SYS_ADMIN" in has or {"CAP_BPF", "CAP_PERFMON"} <= has

    def as_dict(self) -> dict[str, Any]:
        """Return the facts for JSON."""
        return asdict(self) | {"may_load": self.may_load}


@dataclass(frozen=True)
class Check:
    """One line of ``iophase doctor``: what was looked at, what was found, what to do about it."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


_ELSEWHERE = (
    "a container needs CAP_BPF and CAP_PERFMON, and bpf(2); "
    "'iophase lab 6.1 -- run epoll' traces in a kernel of its own instead"
)


def _integer(path: str) -> int | None:
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _lockdown() -> str | None:
    """Return the mode in brackets of ``[none] integrity confidentiality``."""
    try:
        text = _LOCKDOWN.read_text(encoding="ascii")
    except OSError:
        return None
    return text.partition("[")[2].partition("]")[0] or None


def _bcc() -> tuple[str | None, str | None]:
    """Return BCC's version, or None and why it cannot be used."""
    try:
        import bcc
    except (ImportError, OSError, AttributeError) as error:
        return None, str(error)
    if not hasattr(bcc, "BPF"):
        return None, f"{bcc.__file__} is another project of that name"
    return str(bcc.__version__), None


def tracefs() -> Path | None:
    """Return where tracefs is mounted, or None."""
    return next((path for path in _TRACEFS if os.access(path / "events", os.F_OK)), None)


def inspect() -> Host:
    """Look at the host; nothing is attached, mounted or changed."""
    bcc_version, bcc_error = _bcc()
    mounted = tracefs()
    return Host(
        kernel=platform.release(),
        arch=platform.machine(),
        cpus=os.cpu_count() or 1,
        root=os.geteuid() == 0,
        capabilities=tuple(sorted(effective())),
        btf=os.access(BTF, os.R_OK),
        bcc=bcc_version,
        bcc_error=bcc_error,
        tracefs=str(mounted) if mounted else None,
        kprobes=_KPROBE_PMU.exists(),
        unprivileged_bpf_disabled=_integer("/proc/sys/kernel/unprivileged_bpf_disabled"),
        io_uring_disabled=_integer("/proc/sys/kernel/io_uring_disabled"),
        perf_event_paranoid=_integer("/proc/sys/kernel/perf_event_paranoid"),
        lockdown=_lockdown(),
        cgroup2=_CGROUP2.exists(),
        qemu=shutil.which(f"qemu-system-{platform.machine()}"),
        own_pids=own_pids(),
        bpf_error=_bpf_error(),
    )


def own_pids() -> bool:
    """Return whether /proc numbers processes in another way than the kernel's probes do."""
    return _PID_NAMESPACE.exists() and _PID_NAMESPACE.stat().st_ino != _INITIAL_PID_NAMESPACE


def _bpf_error() -> str | None:
    """Try it: a container can have every capability and still be refused the system call."""
    from probes import syscall

    try:
        syscall.try_to_load()
    except OSError as error:
        return error.strerror
    except KeyError:
        return f"no number of bpf(2) is known for {platform.machine()}"
    return None


def _privileges(host: Host) -> Check:
    name = "privileges"
    if host.may_load:
        who = "root" if host.root else "capabilities"
        return Check(name, "ok", f"{who}; CAP_BPF and CAP_PERFMON are effective")
    lacking = sorted({"CAP_BPF", "CAP_PERFMON"} - set(host.capabilities))
    detail = f"{'root' if host.root else 'not root'}, without {' and '.join(lacking)}"
    return Check(name, "missing", detail, _ELSEWHERE if host.root else "run with sudo to trace")


def _bpf_check(host: Host) -> Check:
    name = "BPF"
    if host.bpf_error is None:
        return Check(name, "ok", "the kernel takes a program")
    detail = f"the kernel refuses a program that does nothing: {host.bpf_error}"
    return Check(name, "missing", detail, _ELSEWHERE if host.may_load else "see privileges")


def _pids_check(host: Host) -> Check:
    if not host.own_pids:
        return Check("PIDs", "ok", "as the kernel numbers them")
    return Check(
        "PIDs",
        "missing",
        "this is a PID namespace of its own, and the probes see the host's numbers",
        "run iophase on the host, or in a container with --pid=host",
    )


def _bcc_check(host: Host) -> Check:
    if host.bcc is not None:
        return Check("BCC", "ok", f"{host.bcc}, no kernel headers needed")
    return Check(
        "BCC",
        "missing",
        host.bcc_error or "not importable",
        "install the distribution's package: apt-get install python3-bpfcc",
    )


def _btf_check(host: Host) -> Check:
    if host.btf:
        return Check("kernel types", "ok", str(BTF))
    return Check(
        "kernel types",
        "missing",
        f"{BTF} cannot be read",
        "boot a kernel built with CONFIG_DEBUG_INFO_BTF, as distributions ship it",
    )


def _lockdown_check(host: Host) -> Check:
    if host.lockdown == "confidentiality":
        return Check(
            "lockdown",
            "missing",
            "confidentiality: the kernel lets no BPF program read its memory",
            "boot with lockdown=integrity or none",
        )
    return Check("lockdown", "ok", host.lockdown or f"no {_LOCKDOWN}")


def _kprobes_check(host: Host) -> Check:
    if host.kprobes:
        return Check("kprobes", "ok", "the kernel has them")
    return Check("kprobes", "limited", "not in this kernel; tracepoints stand in, less precisely")


def _io_uring_check(host: Host) -> Check:
    name = "io_uring"
    match host.io_uring_disabled:
        case None | 0:
            return Check(name, "ok", "not restricted")
        case 1:
            status: Status = "ok" if "CAP_SYS_ADMIN" in host.capabilities else "limited"
            return Check(name, status, "only for privileged processes (io_uring_disabled is 1)")
        case value:
            return Check(
                name,
                "limited",
                f"switched off (io_uring_disabled is {value}); its models cannot run",
                "sysctl kernel.io_uring_disabled=0",
            )


def _qemu_check(host: Host) -> Check:
    if host.qemu:
        return Check("lab", "ok", host.qemu)
    package = "qemu-system-x86" if host.arch == "x86_64" else "qemu-system-arm"
    return Check(
        "lab", "limited", "QEMU not found", f"for 'iophase lab': apt-get install {package}"
    )


def checks(host: Host) -> list[Check]:
    """Judge the facts: what is fine, what limits the measurement, what prevents it."""
    return [
        _privileges(host),
        _bpf_check(host),
        _pids_check(host),
        _bcc_check(host),
        _btf_check(host),
        _lockdown_check(host),
        _kprobes_check(host),
        _io_uring_check(host),
        _qemu_check(host),
    ]


def require_tracing() -> None:
    """Raise ``IophaseError`` with the first thing that prevents tracing here, and what to do."""
    for check in checks(inspect()):
        if check.status == "missing":
            raise IophaseError(f"cannot trace: {check.name}: {check.detail}; {check.remedy}")
