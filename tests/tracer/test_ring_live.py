"""The ring reader on a real BPF ring buffer."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from probes.compiler import compile_program
from tracer.ring import Drain, Records, RingReader

pytestmark = pytest.mark.live

RECORD_SIZE = 136
CALLS = 10_007
"""A prime number, so that nothing comes out right by chance."""

PROGRAM = """
struct record { u64 number; u64 padding[%(words)d]; };
BPF_RINGBUF_OUTPUT(ring, %(pages)d);
BPF_ARRAY(counts, u64, 2); /* emitted, lost */

int on_sys_enter(struct bpf_raw_tracepoint_args *ctx)
{
    if ((u32)bpf_get_current_pid_tgid() != TID || ctx->args[1] != NUMBER)
        return 0;
    int zero = 0, one = 1;
    u64 *emitted = counts.lookup(&zero), *lost = counts.lookup(&one);
    if (!emitted || !lost)
        return 0;
    struct record *r = ring.ringbuf_reserve(sizeof(*r));
    u64 number = (*emitted)++;
    if (!r) {
        (*lost)++;
        return 0;
    }
    r->number = number;
    ring.ringbuf_submit(r, BPF_RB_NO_WAKEUP);
    return 0;
}
"""

Ring = tuple[Any, RingReader]


@pytest.fixture
def make_ring(request: pytest.FixtureRequest) -> Callable[[int], Ring]:
    def make(pages: int) -> Ring:
        program = compile_program(
            PROGRAM % {"words": RECORD_SIZE // 8 - 1, "pages": pages},
            cflags=[
                f"-DTID={threading.get_native_id()}",
                f"-DNUMBER={SYS_GETPPID[os.uname().machine]}",
            ],
        )
        request.addfinalizer(program.cleanup)
        program.attach_raw_tracepoint(tp=b"sys_enter", fn_name=b"on_sys_enter")
        reader = RingReader(program[b"ring"].map_fd, pages * 4096, RECORD_SIZE)
        request.addfinalizer(reader.close)
        return program, reader

    return make


SYS_GETPPID = {"x86_64": 110, "aarch64": 173}


def number(records: list[Records]) -> list[int]:
    words = np.concatenate(records).view("<u8").reshape(-1, RECORD_SIZE // 8)
    return [int(value) for value in words[:, 0]]


def test_every_record_of_a_live_ring_is_drained_in_order(make_ring: Callable[[int], Ring]) -> None:
    program, reader = make_ring(64)
    moved: list[Records] = []
    drain = Drain(reader, moved.append)
    drain.start()
    for call in range(CALLS):
        os.getppid()
        if call % 1000 == 0:
            threading.Event().wait(0.011)
    drain.stop()
    assert program[b"counts"][0].value == CALLS
    assert program[b"counts"][1].value == 0
    assert number(moved) == list(range(CALLS))


def test_when_a_tiny_ring_overflows_emitted_is_recorded_plus_lost(
    make_ring: Callable[[int], Ring],
) -> None:
    program, reader = make_ring(1)
    moved: list[Records] = []
    for call in range(CALLS):
        os.getppid()
        if call % 100 == 0:
            moved.append(reader.read())
    moved.append(reader.read())
    recorded = number(moved)
    lost = program[b"counts"][1].value
    assert lost > 0
    assert len(recorded) + lost == CALLS == program[b"counts"][0].value
    assert recorded == sorted(set(recorded))
