"""The generated header: what it holds, and that a C compiler confirms every layout in it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from probes import btf
from probes.btf import Btf, Kind
from probes.header import generate
from probes.names import SHIM, Provided, provided_by_bcc
from tests.probes.btf_bytes import BtfBytes

NOTHING = Provided()
COMPILER = shutil.which("cc")

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


def confirm(header: str, program: str = "") -> None:
    """Let a C compiler check every ``_Static_assert`` of a header, and a program behind it."""
    shim = (SHIM / "include/linux/types.h").read_text()
    assert COMPILER is not None
    checked = subprocess.run(
        [COMPILER, "-fsyntax-only", "-std=gnu11", "-xc", "-"],
        input="\n".join([shim, header, program]),
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr[:2000]


def asserted(header: str) -> set[str]:
    """Return what the header asserts: ``struct sock`` for a size, ``sock.state`` for an offset."""
    return set(re.findall(r'_Static_assert\(.*, "(.*)"\);', header))


@needs_compiler
def test_members_that_the_text_does_not_name_become_padding() -> None:
    made = BtfBytes()
    word = made.integer("unsigned int", 4)
    huge = made.struct("huge", 4096, [("inside", word, 0)])
    made.struct("task", 4108, [("pid", word, 0), ("huge_part", huge, 32), ("tgid", word, 32832)])

    header = generate(made.btf(), "u32 f(struct task *t) { return t->tgid; }", provided=NOTHING)

    assert asserted(header) == {"struct task", "struct task.tgid"}
    assert "huge" not in header
    confirm(header, '_Static_assert(sizeof(((struct task *)0)->tgid) == 4, "");')


@needs_compiler
def test_named_pointers_bring_the_struct_that_they_lead_to() -> None:
    made = BtfBytes()
    word = made.integer("long unsigned int", 8)
    inode = made.struct("inode", 16, [("i_ino", word, 64)])
    other = made.struct("other", 8, [("i_ino", word, 0)])
    made.struct(
        "file", 16, [("f_inode", made.pointer(inode), 0), ("f_other", made.pointer(other), 64)]
    )

    header = generate(
        made.btf(), "u64 g(struct file *f) { return f->f_inode->i_ino; }", (), NOTHING
    )

    assert {"struct file.f_inode", "struct inode.i_ino"} <= asserted(header)
    assert "other" not in header
    confirm(header, "unsigned long g(struct file *f) { return f->f_inode->i_ino; }")


@needs_compiler
def test_names_in_comments_and_strings_bring_nothing() -> None:
    made = BtfBytes()
    made.struct("sock", 4, [("state", made.integer("int", 4), 0)])
    text = '/* struct sock */ // struct sock\nchar *s = "struct sock";'
    assert generate(made.btf(), text, provided=NOTHING).strip() == ""


@needs_compiler
def test_roots_are_taken_as_if_they_stood_in_the_text() -> None:
    made = BtfBytes()
    made.struct("sock", 4, [("state", made.integer("int", 4), 0)])
    header = generate(made.btf(), "", ["struct sock", "state"], NOTHING)
    assert asserted(header) == {"struct sock", "struct sock.state"}


@needs_compiler
def test_layouts_that_c_does_not_give_by_itself_are_kept() -> None:
    made = BtfBytes()
    byte = made.integer("unsigned char", 1)
    long = made.integer("long unsigned int", 8)
    made.struct("packed", 9, [("kind", byte, 0), ("at", long, 8)])
    made.struct("odd", 6, [("short_of", made.integer("int", 4), 16)])
    made.struct("empty", 0, [])
    made.struct("tail", 8, [("count", long, 0), ("items", made.array(long, 0), 64)])
    text = "struct packed p; struct odd o; struct empty e; struct tail t; kind at short_of items;"
    confirm(generate(made.btf(), text, provided=NOTHING))


@needs_compiler
def test_bitfields_are_where_btf_says(tmp_path: Path) -> None:
    made = BtfBytes()
    byte = made.integer("unsigned char", 1)
    word = made.integer("unsigned int", 4)
    members = [
        ("skipped", byte, 1 << 24 | 0),
        ("first", byte, 3 << 24 | 1),
        ("across", word, 20 << 24 | 13),
        ("whole", word, 64),
        ("last", word, 1 << 24 | 127),
    ]
    made.struct("flags", 16, members, kflag=True)
    header = generate(made.btf(), "struct flags f; first across whole last", provided=NOTHING)
    program = """
    int printf(const char *, ...);
    int main(void) {
        static union { struct flags f; unsigned char bytes[16]; } u;
        u.f.first = -1; u.f.across = -1; u.f.whole = -1; u.f.last = -1;
        for (int i = 0; i < 128; i++)
            if (u.bytes[i / 8] >> i % 8 & 1) printf("%d ", i);
        return 0;
    }"""
    binary = tmp_path / "bits"
    assert COMPILER is not None
    subprocess.run(
        [COMPILER, "-w", "-xc", "-", "-o", str(binary)],
        input=header + program,
        text=True,
        check=True,
    )
    found = subprocess.run([binary], capture_output=True, text=True, check=True).stdout.split()
    assert [int(bit) for bit in found] == [*range(1, 4), *range(13, 33), *range(64, 96), 127]


@needs_compiler
def test_a_member_without_a_name_may_have_a_tag() -> None:
    made = BtfBytes()
    word = made.integer("unsigned int", 4)
    tagged = made.struct("ns_tree", 8, [("ns_id", word, 32)])
    made.struct("ns_common", 16, [("count", word, 0), ("", tagged, 64)])
    header = generate(made.btf(), "struct ns_common n; n.ns_id", provided=NOTHING)
    assert "struct ns_common.ns_id" in asserted(header)
    confirm(header)


@needs_compiler
def test_enums_keep_size_and_sign_and_only_the_constants_of_the_text() -> None:
    made = BtfBytes()
    made.enum("pid_type", {"PIDTYPE_PID": 0, "PIDTYPE_TGID": 1, "PIDTYPE_MAX": 4})
    made.enum("small", {"SMALL": 3}, size=1)
    made.enum("negative", {"LOW": -7, "HIGH": 7}, signed=True)
    made.enum("cut_to_32_bits", {"CUT": 1}, size=8)
    made.enum64("wide", {"WIDE": 1 << 40})
    made.enum("announced", {})
    made.enum("", {"TCP_ESTABLISHED": 1, "TCP_SYN_SENT": 2})
    text = (
        "enum pid_type a; enum small b; enum negative c; enum cut_to_32_bits d; enum wide e;"
        "int f = PIDTYPE_TGID + TCP_ESTABLISHED + WIDE + CUT;"
    )
    header = generate(made.btf(), text, provided=NOTHING)
    assert "PIDTYPE_PID" not in header
    assert "TCP_SYN_SENT" not in header
    assert "CUT =" not in header  # its value is not known: better none than a wrong one
    confirm(
        header,
        '_Static_assert(PIDTYPE_TGID == 1 && TCP_ESTABLISHED == 1 && WIDE == 1L << 40, "");'
        '_Static_assert((enum negative)-1 < 0, "");',
    )


@needs_compiler
def test_what_exists_already_is_not_declared_again() -> None:
    made = BtfBytes()
    word = made.integer("unsigned int", 4)
    sock = made.struct("bpf_sock", 4, [("family", word, 0)])
    made.enum("bpf_map_type", {"BPF_MAP_TYPE_HASH": 1})
    made.wrap(Kind.TYPEDEF, word, "u32")
    made.struct("holder", 12, [("sk", sock, 32), ("own", sock, 64)])
    made.struct("call_record", 4, [("state", word, 0)])
    made.enum("other", {"MODE_USER": 9})
    provided = Provided(
        tags=frozenset({"bpf_sock", "bpf_map_type"}),
        identifiers=frozenset({"BPF_MAP_TYPE_HASH"}),
        typedefs=frozenset({"u32"}),
    )
    before = "struct bpf_sock { u32 family; }; enum bpf_map_type { BPF_MAP_TYPE_HASH = 1 };"
    program = (
        "enum mode { MODE_USER, MODE_CALL }; struct call_record { u64 state; };"
        "int h(struct holder *x, enum bpf_map_type t) { return x->sk.family + BPF_MAP_TYPE_HASH; }"
    )
    header = generate(made.btf(), program, provided=provided)
    assert asserted(header) == {"struct holder", "struct holder.sk"}
    confirm(before + header, program)


@needs_compiler
def test_of_two_types_with_one_tag_the_likelier_is_taken_and_the_other_stays_opaque() -> None:
    made = BtfBytes()
    word = made.integer("unsigned int", 4)
    wrong = made.struct("info", 8, [("unrelated", word, 0)])
    made.struct("info", 4, [("wanted", word, 0)])
    made.struct("user", 24, [("by_value", wrong, 0), ("by_pointer", made.pointer(wrong), 64)])
    text = "struct user u; u.by_value u.by_pointer; struct info i; i.wanted"
    header = generate(made.btf(), text, provided=NOTHING)
    assert "struct info.wanted" in asserted(header)
    assert "void *by_pointer" in header
    confirm(header)


@needs_compiler
def test_types_that_bpf_has_not_take_their_room() -> None:
    made = BtfBytes()
    real = made.float("double", 8)
    function = made.wrap(Kind.CONST, made.pointer(made.wrap(Kind.TYPE_TAG, 0, "rcu")))
    wide = made.integer("__int128 unsigned", 16)
    matrix = made.array(made.array(made.integer("char", 1), 3), 2)
    made.struct(
        "mixed",
        64,
        [("real", real, 0), ("callback", function, 64), ("wide", wide, 128), ("grid", matrix, 256)],
    )
    confirm(generate(made.btf(), "struct mixed m; real callback wide grid", provided=NOTHING))


@pytest.fixture(scope="module")
def kernel() -> Btf:
    if not btf.VMLINUX.exists():
        pytest.skip("the kernel has no BTF")
    return btf.load()


@needs_compiler
def test_every_type_of_the_running_kernel_keeps_its_layout(kernel: Btf) -> None:
    kinds = {Kind.STRUCT: "struct", Kind.UNION: "union", Kind.ENUM: "enum", Kind.ENUM64: "enum"}
    roots: dict[str, None] = {}
    for kind, word in kinds.items():
        for tag in kernel.named(kind):
            roots[f"{word} {tag}"] = None
    composites = [i for i in range(1, len(kernel)) if kernel.kind(i) in (Kind.STRUCT, Kind.UNION)]
    roots |= dict.fromkeys(
        member.name for type_id in composites for member in kernel.members(type_id) if member.name
    )
    header = generate(kernel, "", roots, Provided(typedefs=provided_by_bcc().typedefs))

    assert len(asserted(header)) > 30_000
    confirm(header)


def test_what_bcc_brings_is_read_from_the_library_that_is_loaded() -> None:
    pytest.importorskip("bcc")
    provided = provided_by_bcc()
    assert {"bpf_map_type", "__sk_buff", "xdp_action"} <= provided.tags
    assert {"BPF_ANY", "BPF_RB_NO_WAKEUP", "XDP_PASS", "BPF_HASH"} <= provided.identifiers
    assert {"u8", "u64", "__be16", "size_t", "bool"} <= provided.typedefs
    assert "sock" not in provided.tags
    assert "TCP_ESTABLISHED" not in provided.identifiers
