from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tracer import host
from tracer.errors import IophaseError
from tracer.host import Host


@pytest.fixture
def capable() -> Host:
    """A host on which everything is possible."""
    return Host(
        kernel="6.1.0",
        arch="x86_64",
        cpus=2,
        root=True,
        capabilities=("CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN"),
        btf=True,
        bcc="0.26.0",
        bcc_error=None,
        tracefs="/sys/kernel/tracing",
        kprobes=True,
        unprivileged_bpf_disabled=2,
        io_uring_disabled=0,
        perf_event_paranoid=2,
        lockdown="none",
        cgroup2=True,
        qemu="/usr/bin/qemu-system-x86_64",
    )


def status(of: Host, name: str) -> str:
    return next(check.status for check in host.checks(of) if check.name == name)


def test_a_capable_host_passes_every_check(capable: Host) -> None:
    assert {check.status for check in host.checks(capable)} == {"ok"}


@pytest.mark.parametrize(
    ("change", "name", "expected"),
    [
        ({"capabilities": ()}, "privileges", "missing"),
        ({"capabilities": ("CAP_BPF",)}, "privileges", "missing"),
        ({"capabilities": ("CAP_BPF", "CAP_PERFMON"), "root": False}, "privileges", "ok"),
        ({"bcc": None, "bcc_error": "No module named 'bcc'"}, "BCC", "missing"),
        ({"own_pids": True}, "PIDs", "missing"),
        ({"btf": False}, "kernel types", "missing"),
        ({"lockdown": "confidentiality"}, "lockdown", "missing"),
        ({"lockdown": "integrity"}, "lockdown", "ok"),
        ({"kprobes": False}, "kprobes", "limited"),
        ({"io_uring_disabled": 2}, "io_uring", "limited"),
        ({"io_uring_disabled": 1}, "io_uring", "ok"),
        ({"io_uring_disabled": None}, "io_uring", "ok"),
        ({"qemu": None}, "lab", "limited"),
    ],
)
def test_what_a_host_lacks_is_named(
    capable: Host, change: dict[str, object], name: str, expected: str
) -> None:
    assert status(replace(capable, **change), name) == expected  # type: ignore[arg-type]


def test_everything_that_prevents_tracing_comes_with_advice(capable: Host) -> None:
    bare = replace(
        capable, capabilities=(), btf=False, bcc=None, lockdown="confidentiality", qemu=None
    )
    for check in host.checks(bare):
        assert check.status != "missing" or check.remedy


def test_what_prevents_tracing_is_one_error_with_its_remedy(
    capable: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "inspect", lambda: capable)
    host.require_tracing()
    monkeypatch.setattr(host, "inspect", lambda: replace(capable, capabilities=(), root=False))
    with pytest.raises(IophaseError, match=r"not root.*run with sudo"):
        host.require_tracing()


def test_the_facts_are_those_of_this_machine() -> None:
    facts = host.inspect()
    assert facts.kernel == platform.release()
    assert facts.root == (os.geteuid() == 0)
    assert facts.btf == Path("/sys/kernel/btf/vmlinux").exists()
    paranoid = Path("/proc/sys/kernel/perf_event_paranoid")
    assert facts.perf_event_paranoid == (int(paranoid.read_text()) if paranoid.exists() else None)


def test_inspecting_mounts_nothing() -> None:
    before = Path("/proc/self/mounts").read_text()
    host.inspect()
    assert Path("/proc/self/mounts").read_text() == before


def test_another_package_called_bcc_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bcc.py").write_text("__version__ = '1'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "bcc", raising=False)
    facts = host.inspect()
    assert facts.bcc is None
    assert facts.bcc_error is not None and "another project" in facts.bcc_error


def test_doctor_says_the_same_as_json_and_as_text() -> None:
    command = [sys.executable, "-m", "tracer", "doctor"]
    text = subprocess.run(command, capture_output=True, text=True, check=False)
    document = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert text.returncode == document.returncode
    parsed = json.loads(document.stdout)
    assert parsed["host"]["kernel"] in text.stdout
    for check in parsed["checks"]:
        assert check["detail"] in text.stdout
    missing = any(check["status"] == "missing" for check in parsed["checks"])
    assert document.returncode == (1 if missing else 0)


@pytest.mark.live
def test_doctor_foretells_the_backend_and_the_probes_of_a_recording(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tracer"]
    doctor = subprocess.run([*command, "doctor", "--json"], capture_output=True, check=True)
    record = [*command, "record", "-o", str(tmp_path / "trace"), "--", "true"]
    subprocess.run(record, capture_output=True, check=True)
    outlook = json.loads(doctor.stdout)["outlook"]
    trace = json.loads((tmp_path / "trace" / "trace.json").read_text())
    assert outlook["backend"] == trace["backend"]
    foretold = {probe["name"] for probe in outlook["probes"] if probe["backend"] is not None}
    attached = {probe["name"] for probe in trace["probes"] if probe["attached"] is not None}
    assert attached == foretold
    by_name = {probe["name"]: probe["attached"] for probe in trace["probes"]}
    assert {p["name"]: p["backend"] for p in outlook["probes"]} == by_name
