"""A backend that is refused, a function that has gone, a tracer that is killed."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from probes.attachment import attach
from probes.catalogue import Function
from probes.compiler import compile_program
from probes.errors import ProbeError
from probes.plan import BACKENDS, Backend, Plan, Step, make_plan, refusals
from probes.program import Program
from tests.live.recording import assert_closed, record, total
from tests.live.seccomp import refuse
from tests.live.target import Target, tcp_pair
from tests.matrix.conftest import IN_LAB
from tests.matrix.workloads import paused

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

GONE = "tcp_recvmsg"
NOTRACE = "native_sched_clock"
"""A function that x86 kernels have, and that nobody may trace."""
SETTLE_S = 20.0
"""For the kernel to let go of what a killed process held (RCU)."""
KPROBES = Path("/sys/kernel/debug/kprobes/list")
KPROBE_EVENTS = Path("/sys/kernel/tracing/kprobe_events")
SYSTEM_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


def test_a_forced_backend_that_is_refused_says_why_and_names_one_that_works(live: None) -> None:
    refused = refusals()
    if not refused:
        pytest.skip("this kernel refuses no backend")
    works = next(backend for backend in BACKENDS if backend not in refused)
    for backend, reason in refused.items():
        with pytest.raises(ProbeError) as caught:
            make_plan(backend)
        assert str(caught.value) == f"{backend}: {reason}; use --backend {works}"


def test_the_trace_says_how_each_probe_is_attached_or_why_not(
    backend: Backend, program: Program, tmp_path: Path
) -> None:
    left, right = tcp_pair()
    with left, right:
        trace, _ = record(
            program, tmp_path / "trace", lambda: len(right.recv(1)), lambda _: left.send(b"x")
        )
    assert trace.meta["backend"] == backend
    states = {probe["name"]: probe for probe in trace.meta["probes"]}
    for step in program.plan.steps:
        state = states[step.symbol]
        assert (state["attached"] is None) == (state["detail"] is not None), state
        if IN_LAB and not is_left_out(state):  # a stock kernel: the catalogue knows what it has
            there = _version(step.probe.since) <= _version(platform.release())
            assert there == (state["attached"] is not None), state
        if isinstance(step.probe, Function):
            assert state["attached"] in (None, backend)
            assert (state["hits"] is None) == (state["attached"] is None)
    assert set(trace.meta["resolution_ns"]) == {
        *("sleep", "runq", "spin", "check", "copy", "overhead"),
    }


def is_left_out(state: dict[str, Any]) -> bool:
    return str(state["detail"]).startswith(("not needed: ", "not wanted: "))


def _version(text: str) -> list[int]:
    return [int(part) for part in text.partition("-")[0].split(".")[:2]]


def without(plan: Plan, symbol: str) -> Plan:
    """Return the plan of a kernel that has no such function."""
    steps = [
        step._replace(backends=(), detail="this kernel has no such function")
        if step.symbol == symbol
        else step
        for step in plan.steps
    ]
    return plan._replace(steps=tuple(steps))


def test_a_function_that_has_gone_costs_only_its_own_figure(
    backend: Backend, compiled: Program, plans: dict[Backend, Plan], tmp_path: Path
) -> None:
    if backend == "tracepoint":
        pytest.skip("it attaches no function")
    compiled.detach()
    compiled.attach(without(plans[backend], GONE))
    try:
        trace, pauses = paused(compiled, tmp_path / "trace", "blocking", 2, sleeps=True)
    finally:
        compiled.detach()
    receives = trace.calls[trace.calls["call"] == "recvfrom"]
    assert receives["function_ns"].isna().all()
    assert receives["copy_ns"].notna().all()
    assert total(receives["sleep_ns"]) >= sum(ended - began for began, ended in pauses)
    assert trace.deliveries["notify_ns"].notna().any()
    states = {probe["name"]: probe for probe in trace.meta["probes"]}
    assert states[GONE]["attached"] is None
    assert states[GONE]["detail"] == "this kernel has no such function"
    assert states["sock_def_readable"]["attached"] == backend
    assert_closed(trace)


def test_a_function_that_may_not_be_traced_costs_no_other_its_place(backend: Backend) -> None:
    """Where BTF describes it, a program for it is taken: only attaching it fails."""
    if backend == "tracepoint":
        pytest.skip("it attaches no function")
    steps = [Step(Function(name, "", "", ""), name, (backend,), "") for name in (NOTRACE, GONE)]
    programs = [
        f"int {kind}__{step.symbol}({context} *ctx) {{ return 0; }}"
        for step in steps
        for kind in ("kfunc", "kretfunc", "kprobe", "kretprobe")
        for context in ("u64" if kind.endswith("func") else "struct pt_regs",)
    ]
    bpf = compile_program("\n".join(programs))
    try:
        refused, attached = attach(bpf, Plan(tuple(steps), {}, backend))
    finally:
        bpf.cleanup()
    assert refused.backend is None
    assert refused.detail.startswith(f"{backend}: ")
    assert NOTRACE in refused.detail
    assert (attached.backend, attached.detail) == (backend, "")


def test_kprobes_that_the_host_refuses_are_not_tried(live: None) -> None:
    """BCC would leave an event in the kernel for each that it had tried."""
    if "kprobe" in refusals():
        pytest.skip("this kernel has none")
    before = KPROBE_EVENTS.read_text()

    def force() -> str:
        refuse("perf_event_open")
        try:
            Program(make_plan("kprobe")).attach()
        except ProbeError as error:
            return str(error)
        return "attached"

    with Target(force) as target:
        target.go()
        assert target.result() == (
            "kprobe: no function gets one: perf_event_open: Operation not permitted; "
            "use --backend fentry"
        )
    assert KPROBE_EVENTS.read_text() == before


def attachments() -> set[str]:
    """Return what is attached in the kernel: the links of BPF programs, and kprobes, which have
    none (Documentation/trace/kprobes.rst)."""
    shown = subprocess.run(
        ["bpftool", "-j", "link", "list"],
        env={**os.environ, "PATH": SYSTEM_PATH},
        stdout=subprocess.PIPE,
        check=True,
    )
    links = {f"link {link['id']}" for link in json.loads(shown.stdout)}
    return links | set(KPROBES.read_text().splitlines() if KPROBES.exists() else ())


def test_nothing_stays_attached_when_the_tracer_is_killed(
    backend: Backend, compiled: Program, plans: dict[Backend, Plan]
) -> None:
    """The tracer is a child: what it attaches is compiled already, and its own."""
    if shutil.which("bpftool", path=SYSTEM_PATH) is None:
        pytest.skip("no bpftool here")
    compiled.detach()
    before = attachments()
    told, tell = os.pipe()

    def trace() -> None:
        compiled.attach(plans[backend])
        os.write(tell, b".")
        signal.pause()

    with os.fdopen(told, "rb") as ready, Target(trace) as tracer:
        os.close(tell)
        tracer.go()
        assert ready.read(1) or tracer.result()
        made = attachments() - before
        assert len(made) > 10
        assert backend != "kprobe" or any("tcp_recvmsg" in one for one in made)
        os.kill(tracer.pid, signal.SIGKILL)
    limit = time.monotonic() + SETTLE_S
    while attachments() - before and time.monotonic() < limit:
        time.sleep(0.1)
    assert not attachments() - before
