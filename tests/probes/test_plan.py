"""The attach plan: what is tried for each probe, and what is said of what is not."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from probes import attachment, btf, plan, syscall
from probes.btf import Btf
from probes.catalogue import FUNCTIONS, TRACEPOINTS, system_call_symbol
from probes.errors import ProbeError
from probes.plan import Backend, Plan, Step, make_plan, symbol_of
from tests.probes.btf_bytes import BtfBytes

ALL = tuple(symbol_of(function) for function in FUNCTIONS)


class Kernel:
    """A kernel that has these functions, and lets fentry attach to some of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kprobe_type: Path) -> None:
        self._monkeypatch = monkeypatch
        self._kprobe_type = kprobe_type
        kprobe_type.write_text("8\n")

    def has(
        self,
        functions: Iterable[str] = ALL,
        *,
        fentry: Iterable[str] | None = None,
        kprobes: bool = True,
        perf_events: bool = True,
    ) -> Btf:
        made = BtfBytes()
        integer = made.integer("int", 4)
        for name in functions:
            made.function(name, integer, [("first", integer)])
        types = made.btf()
        allowed = set(functions if fentry is None else fentry)
        names = {id_: name for name in ALL for id_ in types.find(btf.Kind.FUNC, name)}

        def load_fentry(function_id: int) -> int:
            if names[function_id] not in allowed:
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))
            return os.open(os.devnull, os.O_RDONLY)

        def try_kprobe(event_type: int) -> None:
            assert event_type == 8
            if not perf_events:
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))

        self._monkeypatch.setattr(btf, "load", lambda: types)
        self._monkeypatch.setattr(syscall, "load_fentry", load_fentry)
        self._monkeypatch.setattr(syscall, "try_kprobe", try_kprobe)
        here = self._kprobe_type if kprobes else Path("/nowhere")
        self._monkeypatch.setattr(plan, "_KPROBE_TYPE", here)
        return types


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kernel:
    return Kernel(monkeypatch, tmp_path / "type")


def step_of(made: Plan, symbol: str) -> Step:
    (step,) = [step for step in made.steps if step.symbol == symbol]
    return step


def backends(made: Plan) -> dict[str, tuple[Backend, ...]]:
    return {step.symbol: step.backends for step in made.steps if step.symbol in ALL}


def test_fentry_is_used_where_the_kernel_takes_it(kernel: Kernel) -> None:
    kernel.has()
    made = make_plan()
    assert set(backends(made).values()) == {("fentry",)}
    assert made.best == "fentry"
    assert made.refused == {}


def test_a_function_that_fentry_may_not_be_attached_to_gets_a_kprobe(kernel: Kernel) -> None:
    kernel.has(fentry=set(ALL) - {"pollwake"})
    step = step_of(make_plan(), "pollwake")
    assert step.backends == ("kprobe",)
    assert step.detail == "fentry: pollwake refused by this kernel: Operation not permitted"
    assert step_of(make_plan(), "tcp_recvmsg").backends == ("fentry",)


def test_a_function_that_is_not_there_costs_no_other_its_place(kernel: Kernel) -> None:
    kernel.has(set(ALL) - {"ep_send_events"})
    made = make_plan()
    step = step_of(made, "ep_send_events")
    assert (step.backends, step.detail) == ((), "this kernel has no such function")
    others = [found for symbol, found in backends(made).items() if symbol != "ep_send_events"]
    assert set(others) == {("fentry",)}


def test_without_functions_the_tracepoints_remain(kernel: Kernel) -> None:
    kernel.has(fentry=(), kprobes=False)
    made = make_plan()
    assert set(made.refused) == {"fentry", "kprobe"}
    assert made.best == "tracepoint"
    assert set(backends(made).values()) == {()}
    assert step_of(made, "do_select").detail == (
        "fentry: tcp_recvmsg refused by this kernel: Operation not permitted; "
        "kprobe: no function has one: this kernel is built without kprobes"
    )
    assert step_of(make_plan("tracepoint"), "do_select").detail.startswith("not wanted")
    tracepoints = [step for step in made.steps if step.backends == ("tracepoint",)]
    assert len(tracepoints) == len(TRACEPOINTS)


@pytest.mark.parametrize("force", ["fentry", "kprobe"])
def test_a_forced_backend_is_the_only_one(force: Backend, kernel: Kernel) -> None:
    kernel.has()
    assert set(backends(make_plan(force)).values()) == {(force,)}


def test_a_forced_backend_that_is_refused_says_which_function_and_what_works(
    kernel: Kernel,
) -> None:
    kernel.has(fentry=())
    with pytest.raises(ProbeError) as caught:
        make_plan("fentry")
    assert str(caught.value) == (
        "fentry: tcp_recvmsg refused by this kernel: Operation not permitted; use --backend kprobe"
    )


def test_kprobes_that_the_host_refuses_are_not_planned_for(kernel: Kernel) -> None:
    kernel.has(perf_events=False)
    with pytest.raises(ProbeError) as caught:
        make_plan("kprobe")
    assert str(caught.value) == (
        "kprobe: no function gets one: perf_event_open: Permission denied; use --backend fentry"
    )
    kernel.has(fentry=set(ALL) - {"pollwake"}, perf_events=False)
    assert step_of(make_plan(), "pollwake").backends == ()


@pytest.mark.parametrize(("force", "instead"), [("fentry", "kprobe"), ("kprobe", "fentry")])
def test_a_forced_backend_by_which_nothing_can_be_attached_is_an_error(
    force: Backend, instead: Backend, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.has()

    def fail(bpf: object, symbol: str, probe: object) -> None:
        raise ProbeError(f"{symbol}: Device or resource busy\nwhat else was printed")

    monkeypatch.setattr(attachment, f"_by_{force}", fail)
    bpf = SimpleNamespace(kfunc_entry_fds={}, kfunc_exit_fds={}, kprobe_fds={})
    with pytest.raises(ProbeError) as caught:
        attachment.attach(bpf, make_plan(force))
    assert str(caught.value) == (
        f"{force}: {ALL[0]}: Device or resource busy; use --backend {instead}"
    )


def test_system_calls_have_the_name_of_their_architecture() -> None:
    assert system_call_symbol("select", "x86_64") == "__x64_sys_select"
    assert system_call_symbol("select", "aarch64") == "__arm64_sys_select"


def test_what_stands_in_for_a_probe_is_a_tracepoint_of_the_catalogue() -> None:
    names = {point.name for point in TRACEPOINTS}
    wanted = [name for probe in FUNCTIONS for name in probe.stand_in]
    wanted += [name for probe in TRACEPOINTS for name in probe.stand_in]
    assert set(wanted) <= names
