"""Programs compiled without kernel headers, loaded, and compared with what /proc says."""

from __future__ import annotations

import ctypes
import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from probes import btf
from probes.compiler import compile_program, expand, load_function
from probes.errors import ProbeError

pytestmark = pytest.mark.live

RAW_TRACEPOINT = 17
TRACEPOINT = 5
TRACING = 26

TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))

ON_ENTRY = """
BPF_ARRAY(seen, struct answer, 1);
int on_sys_enter(struct bpf_raw_tracepoint_args *ctx)
{
    if (bpf_get_current_pid_tgid() >> 32 != OWN_PID) return 0;
    int zero = 0;
    struct answer answer = {};
    struct task_struct *task = (struct task_struct *)bpf_get_current_task();
    FILL
    seen.update(&zero, &answer);
    return 0;
}
"""
"""A program that answers once for each system call of this process."""


@contextmanager
def attached(program: Any, tracepoint: str = "sys_enter") -> Iterator[Any]:
    program.attach_raw_tracepoint(tp=tracepoint.encode(), fn_name=f"on_{tracepoint}".encode())
    try:
        yield program
    finally:
        program.cleanup()


def answer(struct: str, fill: str, *flags: str) -> Any:
    """Return what a program that runs in the kernel on our behalf finds in ``task``."""
    text = f"struct answer {{ {struct} }};\n" + ON_ENTRY.replace("FILL", fill)
    program = compile_program(text, cflags=[f"-DOWN_PID={os.getpid()}", *flags])
    with attached(program):
        os.getppid()
        return program[b"seen"][ctypes.c_int(0)]


def test_fields_of_the_task_read_in_the_kernel_are_those_in_proc() -> None:
    found = answer(
        "u32 tgid; char comm[16]; u64 start_time;",
        """
        bpf_probe_read_kernel(&answer.tgid, sizeof(answer.tgid), &task->tgid);
        bpf_probe_read_kernel(&answer.comm, sizeof(answer.comm), &task->comm);
        bpf_probe_read_kernel(&answer.start_time, sizeof(answer.start_time), &task->start_time);
        """,
    )
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

    assert found.tgid == os.getpid()
    assert found.comm.decode() == Path("/proc/self/comm").read_text().strip()
    # start_boottime is what /proc shows; start_time is the same instant without suspended time
    assert found.start_time // tick <= int(fields[19])
    assert found.start_time > 0


def test_a_chain_of_pointers_is_rewritten_and_followed() -> None:
    found = answer("u64 inode;", "answer.inode = task->mm->exe_file->f_inode->i_ino;")
    assert found.inode == Path("/proc/self/exe").stat().st_ino


def test_a_descriptor_leads_to_its_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = answer(
            "u64 inode; u16 port; u16 family; u8 state; u16 type;",
            """
            struct files_struct *files;
            struct fdtable *table;
            struct file **descriptors, *file;
            struct socket *sock;
            struct sock *sk;
            struct inode *inode;
            bpf_probe_read_kernel(&files, sizeof(files), &task->files);
            bpf_probe_read_kernel(&table, sizeof(table), &files->fdt);
            bpf_probe_read_kernel(&descriptors, sizeof(descriptors), &table->fd);
            bpf_probe_read_kernel(&file, sizeof(file), &descriptors[DESCRIPTOR]);
            bpf_probe_read_kernel(&sock, sizeof(sock), &file->private_data);
            bpf_probe_read_kernel(&sk, sizeof(sk), &sock->sk);
            bpf_probe_read_kernel(&inode, sizeof(inode), &file->f_inode);
            bpf_probe_read_kernel(&answer.inode, sizeof(answer.inode), &inode->i_ino);
            bpf_probe_read_kernel(&answer.port, sizeof(answer.port), &sk->__sk_common.skc_num);
            bpf_probe_read_kernel(
                &answer.family, sizeof(answer.family), &sk->__sk_common.skc_family);
            u8 state = 0;
            bpf_probe_read_kernel(&state, sizeof(state), (void *)&sk->__sk_common.skc_state);
            answer.state = state == TCP_LISTEN;
            bpf_probe_read_kernel(&answer.type, sizeof(answer.type), &sk->sk_type);
            """,
            f"-DDESCRIPTOR={server.fileno()}",
        )
        assert found.inode == os.fstat(server.fileno()).st_ino
        assert found.port == server.getsockname()[1]
        assert found.family == socket.AF_INET
        assert found.state == 1
        assert found.type == socket.SOCK_STREAM


def test_arguments_of_a_system_call_are_read_from_pt_regs() -> None:
    text = """
    BPF_HASH(seen, u64, u64);
    int on_sys_enter(struct bpf_raw_tracepoint_args *ctx)
    {
        if (bpf_get_current_pid_tgid() >> 32 != OWN_PID) return 0;
        struct pt_regs *regs = (struct pt_regs *)ctx->args[0];
        u64 number = ctx->args[1], first = 0;
        bpf_probe_read_kernel(&first, sizeof(first), &PT_REGS_PARM1(regs));
        seen.update(&number, &first);
        return 0;
    }
    """
    program = compile_program(text, cflags=[f"-DOWN_PID={os.getpid()}"])
    number = {"x86_64": 124, "aarch64": 156}[os.uname().machine]  # getsid
    with attached(program):
        os.getsid(os.getpid())
        found = program[b"seen"][ctypes.c_ulonglong(number)].value
    assert found == os.getpid()


def test_every_kind_of_map_works() -> None:
    text = """
    BPF_ARRAY(array, u64, 2);
    BPF_PERCPU_ARRAY(each_cpu, u64, 2);
    BPF_HASH(hash, u32, u64);
    BPF_STACK(stack, u64, 8);
    BPF_QUEUE(queue, u64, 8);
    BPF_RINGBUF_OUTPUT(ring, 1);
    int on_sys_enter(struct bpf_raw_tracepoint_args *ctx)
    {
        if (bpf_get_current_pid_tgid() >> 32 != OWN_PID) return 0;
        int one = 1;
        u32 key = 7;
        u64 value = 42, *slot = array.lookup(&one);
        if (slot) *slot = value;
        slot = each_cpu.lookup(&one);
        if (slot) *slot = value;
        hash.update(&key, &value);
        stack.push(&value, 0);
        queue.push(&value, 0);
        u64 *record = ring.ringbuf_reserve(sizeof(u64));
        if (record) { *record = value; ring.ringbuf_submit(record, BPF_RB_NO_WAKEUP); }
        return 0;
    }
    """
    program = compile_program(text, cflags=[f"-DOWN_PID={os.getpid()}"])
    ring: list[int] = []
    with attached(program):
        program[b"ring"].open_ring_buffer(
            lambda _, data, size: ring.append(
                ctypes.cast(data, ctypes.POINTER(ctypes.c_ulonglong))[0]
            )
        )
        os.getppid()
        program.ring_buffer_consume()
        assert program[b"array"][ctypes.c_int(1)].value == 42
        assert sum(program[b"each_cpu"][ctypes.c_int(1)]) >= 42
        assert program[b"hash"][ctypes.c_uint(7)].value == 42
        assert program[b"stack"].pop().value == 42
        assert program[b"queue"].pop().value == 42
        assert set(ring) == {42}


def test_a_tracepoint_program_has_the_fields_of_its_format() -> None:
    if not any((root / "events/sched/sched_switch/format").exists() for root in TRACEFS):
        pytest.skip("tracefs is not mounted")
    text = """
    BPF_ARRAY(seen, u32, 1);
    TRACEPOINT_PROBE(sched, sched_switch)
    {
        int zero = 0;
        u32 next = args->next_pid;
        seen.update(&zero, &next);
        return 0;
    }
    """
    program = compile_program(text)
    load_function(program, "tracepoint__sched__sched_switch", TRACEPOINT)
    program.cleanup()


@pytest.mark.parametrize(
    "text",
    [
        "int on_return(struct pt_regs *ctx) { return PT_REGS_RC(ctx) > 0; }",
        "int on_call(struct pt_regs *ctx, struct sock *sk) { return sk->__sk_common.skc_num; }",
        "KFUNC_PROBE(tcp_recvmsg, struct sock *sk, struct msghdr *msg, size_t len) { return 0; }",
        "KRETFUNC_PROBE(ep_poll_callback, wait_queue_entry_t *wait) { return 0; }",
    ],
)
def test_function_probes_compile_though_nothing_is_attached(text: str) -> None:
    compile_program(text).cleanup()


ON_POLL = """
struct answer { s64 count; s64 result; };
BPF_ARRAY(seen, struct answer, 1);
static int note(s64 count, s64 result)
{
    if (bpf_get_current_pid_tgid() >> 32 != OWN_PID) return 0;
    int zero = 0;
    struct answer *answer = seen.lookup(&zero);
    if (!answer) return 0;
    if (count >= 0) answer->count = count;
    answer->result = result;
    return 0;
}
int on_poll(struct pt_regs *ctx, void *fds, unsigned int count) { return note(count, -1); }
int on_polled(struct pt_regs *ctx) { return note(-1, PT_REGS_RC(ctx)); }
int kretfunc__do_sys_poll(u64 *ctx) { return note(ctx[COUNT], (int)ctx[RESULT]); }
"""


def poll_seen(attach: Callable[[Any], None]) -> tuple[int, int]:
    """Attach to ``do_sys_poll``, poll three descriptors; return the count and the result seen."""
    prototype = btf.load().function("do_sys_poll")
    assert prototype is not None
    flags = {
        "OWN_PID": os.getpid(),
        "COUNT": prototype.position("nfds"),
        "RESULT": prototype.return_slot,
    }
    program = compile_program(ON_POLL, cflags=[f"-D{name}={flags[name]}" for name in flags])
    try:
        attach(program)
    except Exception as error:  # BCC raises Exception itself
        program.cleanup()
        pytest.skip(f"this host does not allow it: {error}")
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, b"x")
        poll = select.poll()
        for descriptor in (read_end, 0, 1):
            poll.register(descriptor, select.POLLIN if descriptor == read_end else 0)
        assert [descriptor for descriptor, _ in poll.poll(0) if descriptor == read_end]
        found = program[b"seen"][ctypes.c_int(0)]
        return found.count, found.result
    finally:
        os.close(read_end)
        os.close(write_end)
        program.cleanup()


def test_a_kprobe_gets_arguments_and_result() -> None:
    def attach(program: Any) -> None:
        program.attach_kprobe(event=b"do_sys_poll", fn_name=b"on_poll")
        program.attach_kretprobe(event=b"do_sys_poll", fn_name=b"on_polled")

    count, result = poll_seen(attach)
    assert count == 3
    assert result >= 1


def test_fexit_gets_argument_and_result_at_the_positions_that_btf_gives() -> None:
    def attach(program: Any) -> None:
        load_function(program, "kretfunc__do_sys_poll", TRACING)
        program.attach_kretfunc(fn_name=b"kretfunc__do_sys_poll")

    count, result = poll_seen(attach)
    assert count == 3
    assert result >= 1


def test_nothing_of_the_callers_directory_is_compiled_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("linux/types.h", "include/linux/types.h", "include/linux/kconfig.h", "asm/page.h"):
        poisoned = tmp_path / name
        poisoned.parent.mkdir(parents=True, exist_ok=True)
        poisoned.write_text("#error poisoned\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CPATH", str(tmp_path))
    monkeypatch.setenv("C_INCLUDE_PATH", str(tmp_path / "include"))
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tmp_path))

    (tmp_path / "anything.h").touch()
    compile_program(
        "#if __has_include(<anything.h>)\n#error the search path is the caller's\n#endif\n"
        "int on_sys_enter(void *ctx) { return 0; }"
    ).cleanup()

    assert Path.cwd() == tmp_path
    assert os.environ["CPATH"] == str(tmp_path)
    assert os.environ["BCC_KERNEL_SOURCE"] == str(tmp_path)


def test_a_directory_that_is_gone_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    compile_program("int on_sys_enter(void *ctx) { return 0; }").cleanup()


def test_a_mistake_is_named_with_the_file_and_line_that_hold_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state.bpf.h").write_text("static u64 one;\nstatic u64 wrong = mistake;\n")
    main = tmp_path / "main.bpf.c"
    main.write_text('#include "state.bpf.h"\nint on_sys_enter(void *ctx) { return other; }\n')

    with pytest.raises(ProbeError) as raised:
        compile_program(main)

    message = str(raised.value)
    assert message.startswith("main.bpf.c cannot be built")
    assert "state.bpf.h:2:" in message and "mistake" in message
    assert "main.bpf.c:2:" in message and "other" in message
    assert capfd.readouterr() == ("", "")


def test_a_refused_program_gives_the_reason_of_the_verifier(
    capfd: pytest.CaptureFixture[str],
) -> None:
    program = compile_program(
        "int on_sys_enter(struct bpf_raw_tracepoint_args *ctx)"
        "{ struct task_struct *t = 0; bpf_probe_read_kernel(&t, 8, ctx); return *(int *)t; }"
    )
    with pytest.raises(ProbeError, match="on_sys_enter was refused") as raised:
        load_function(program, "on_sys_enter", RAW_TRACEPOINT)
    assert "R1 invalid mem access" in str(raised.value)
    assert capfd.readouterr() == ("", "")
    program.cleanup()


def test_a_program_that_is_accepted_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    program = compile_program("int on_sys_enter(void *ctx) { int unused; return 0; }")
    load_function(program, "on_sys_enter", RAW_TRACEPOINT)
    program.cleanup()
    assert capfd.readouterr() == ("", "")


def test_types_named_only_in_an_included_file_or_a_macro_are_found(tmp_path: Path) -> None:
    (tmp_path / "types.bpf.h").write_text(
        "#pragma once\n#define NUMBER(sk) ((sk)->__sk_common.skc_num)\n"
        "static inline int number(struct sock *sk)\n"
        "{ u16 n = 0; bpf_probe_read_kernel(&n, sizeof(n), &NUMBER(sk)); return n; }\n"
    )
    main = tmp_path / "main.bpf.c"
    main.write_text(
        '#include "types.bpf.h"\n#include "types.bpf.h"\n'
        "int on_sys_enter(struct bpf_raw_tracepoint_args *ctx)\n"
        "{ return number((void *)ctx->args[0]) + sizeof(struct STRUCT); }\n"
    )
    program = compile_program(main, cflags=["-DSTRUCT=epitem"], roots=["struct epitem"])
    load_function(program, "on_sys_enter", RAW_TRACEPOINT)
    program.cleanup()


def test_a_macro_may_have_the_name_of_a_constant_of_the_kernel() -> None:
    text = """
    #define TCP_LISTEN 99
    int on_sys_enter(void *ctx) { return TCP_ESTABLISHED == 98 && TCP_LISTEN == 99; }
    """
    compile_program(text, cflags=["-DTCP_ESTABLISHED=98"]).cleanup()


def test_an_include_that_is_missing_is_named() -> None:
    with pytest.raises(ProbeError, match=r'no "nothing\.bpf\.h" to include'):
        expand('#include "nothing.bpf.h"')
