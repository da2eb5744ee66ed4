"""The BTF reader, against bytes made by hand and against what bpftool reads."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from probes import btf
from probes.btf import Btf, Enumerator, Kind, Parameter
from probes.errors import ProbeError
from tests.probes.btf_bytes import BtfBytes

has_btf = pytest.mark.skipif(not btf.VMLINUX.exists(), reason="the kernel has no BTF")


def test_a_function_gives_its_parameters_in_order_and_the_slot_of_its_return_value() -> None:
    made = BtfBytes()
    integer = made.integer("int", 4, signed=True)
    sock = made.forward("sock")
    pointer = made.pointer(made.wrap(Kind.CONST, sock))
    made.function("tcp_recvmsg", integer, [("sk", pointer), ("flags", integer)])
    types = made.btf()

    prototype = types.function("tcp_recvmsg")

    assert prototype is not None
    assert prototype.parameters == (
        Parameter("sk", "const struct sock *"),
        Parameter("flags", "int"),
    )
    assert prototype.returns == "int"
    assert prototype.position("flags") == 1
    assert prototype.position("nonblock") is None
    assert prototype.return_slot == 2
    assert types.has_function("tcp_recvmsg")


def test_a_function_that_the_kernel_lacks_has_no_prototype() -> None:
    made = BtfBytes()
    made.integer("int", 4)
    types = made.btf()
    assert types.function("ep_poll") is None
    assert not types.has_function("ep_poll")


def test_a_name_is_no_function_only_because_it_ends_another_name() -> None:
    made = BtfBytes()
    made.function("sys_select", made.integer("int", 4), [])
    assert not made.btf().has_function("select")


def test_a_member_is_found_through_anonymous_and_named_structs() -> None:
    made = BtfBytes()
    word = made.integer("unsigned int", 4)
    inner = made.struct("", 8, [("daddr", word, 0), ("rcv_saddr", word, 32)])
    either = made.union("", 8, [("pair", word, 0), ("", inner, 0)])
    common = made.struct("sock_common", 12, [("", either, 0), ("state", word, 64)])
    made.struct("sock", 20, [("lock", common, 64)])
    types = made.btf()

    assert types.member("sock_common", "rcv_saddr").offset == 4  # type: ignore[union-attr]
    assert types.member("sock", "lock.state").offset == 16  # type: ignore[union-attr]
    assert types.member("sock", "state") is None
    assert types.member("sock", "lock.state.more") is None
    assert types.member("nothing", "state") is None


def test_bitfields_are_read_in_the_new_form_and_in_the_old() -> None:
    made = BtfBytes()
    word = made.integer("unsigned int", 4)
    three_bits = made.integer("unsigned int", 4, bits=3)
    made.struct("new", 4, [("a", word, 5 << 24 | 2), ("b", word, 0)], kflag=True)
    made.struct("old", 4, [("a", three_bits, 7), ("b", word, 0)])
    types = made.btf()

    new, old = types.member("new", "a"), types.member("old", "a")
    assert new is not None and (new.bit_offset, new.bit_size) == (2, 5)
    assert old is not None and (old.bit_offset, old.bit_size) == (7, 3)
    assert types.member("old", "b").bit_size == 0  # type: ignore[union-attr]


def test_enumerators_keep_sign_and_width() -> None:
    made = BtfBytes()
    plain = made.enum("plain", {"A": 0, "B": 0xFFFFFFFF})
    signed = made.enum("negative", {"C": -1}, signed=True)
    wide = made.enum64("wide", {"D": 1 << 40})
    wide_signed = made.enum64("wide_negative", {"E": -(1 << 40)}, signed=True)
    types = made.btf()

    assert list(types.enumerators(plain)) == [Enumerator("A", 0), Enumerator("B", 0xFFFFFFFF)]
    assert list(types.enumerators(signed)) == [Enumerator("C", -1)]
    assert list(types.enumerators(wide)) == [Enumerator("D", 1 << 40)]
    assert list(types.enumerators(wide_signed)) == [Enumerator("E", -(1 << 40))]
    assert types.enums_with(["B", "D", "nothing"]) == [plain, wide]


def test_names_longer_than_eight_letters_with_one_beginning_are_told_apart() -> None:
    made = BtfBytes()
    made.enum("first", {"IORING_OP_RECV": 27})
    second = made.enum("second", {"IORING_OP_RECVMSG": 10})
    assert made.btf().enums_with(["IORING_OP_RECVMSG"]) == [second]


def test_sizes_go_through_typedefs_qualifiers_tags_and_arrays() -> None:
    made = BtfBytes()
    real = made.float("double", 8)
    tagged = made.wrap(Kind.TYPE_TAG, real, "user")
    volatile = made.wrap(Kind.VOLATILE, tagged)
    named = made.wrap(Kind.TYPEDEF, volatile, "real_t")
    made.declaration_tag("kfunc", named)
    array = made.array(named, 5)
    types = made.btf()

    assert types.size(array) == 40
    assert types.kind(types.strip(named)) is Kind.FLOAT
    assert types.kind(types.strip(named, typedefs=False)) is Kind.TYPEDEF
    assert types.type_text(array) == "real_t[5]"


def test_a_tag_that_the_kernel_has_twice_is_found_twice() -> None:
    made = BtfBytes()
    word = made.integer("int", 4)
    ids = [made.struct("map_info", 4, [("a", word, 0)]), made.struct("map_info", 4, [])]
    assert made.btf().tagged("map_info") == ids


def test_a_kernel_without_btf_is_named_as_the_cause(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(btf, "VMLINUX", tmp_path / "vmlinux")
    btf.load.cache_clear()
    with pytest.raises(ProbeError, match="CONFIG_DEBUG_INFO_BTF"):
        btf.load()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x7fELF" + bytes(60), "no BTF"),
        (b"", "no BTF"),
        (BtfBytes().data()[:-1], "cut short"),
        (BtfBytes().data(), "no types"),
    ],
)
def test_bytes_that_are_no_btf_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        Btf(data)


def test_a_kind_of_a_future_kernel_is_an_error_and_not_garbage() -> None:
    made = BtfBytes()
    made.integer("int", 4)
    data = bytearray(made.data())
    data[24 + 7] = 31
    with pytest.raises(ProbeError, match="kind 31"):
        Btf(bytes(data))


@has_btf
def test_the_running_kernel_describes_what_every_kernel_has() -> None:
    types = btf.load()
    assert types.has_function("tcp_recvmsg")
    assert types.function("tcp_recvmsg").parameters[0] == Parameter("sk", "struct sock *")  # type: ignore[union-attr]
    comm = types.member("task_struct", "comm")
    assert comm is not None and types.size(comm.type) == 16
    state = types.member("sock", "__sk_common.skc_state")
    assert state is not None and types.size(state.type) == 1


@has_btf
@pytest.mark.skipif(shutil.which("bpftool") is None, reason="bpftool is not installed")
def test_every_type_is_read_as_bpftool_reads_it() -> None:
    dumped = subprocess.run(
        ["bpftool", "-j", "btf", "dump", "file", str(btf.VMLINUX)], capture_output=True, check=True
    )
    expected: list[dict[str, Any]] = json.loads(dumped.stdout)["types"]
    types = btf.load()

    assert len(types) == len(expected) + 1
    for entry in expected:
        type_id = entry["id"]
        kind = types.kind(type_id)
        assert kind.name == entry["kind"]
        assert types.name(type_id) == entry["name"].replace("(anon)", "")
        if kind in (Kind.STRUCT, Kind.UNION):
            assert types.size(type_id) == entry["size"]
            assert [
                (member.name, member.type, member.bit_offset, member.bit_size)
                for member in types.members(type_id)
            ] == [
                (
                    member["name"].replace("(anon)", ""),
                    member["type_id"],
                    member["bits_offset"],
                    member.get("bitfield_size", 0),
                )
                for member in entry["members"]
            ]
        elif kind in (Kind.ENUM, Kind.ENUM64):
            modulus = 2**32 if kind is Kind.ENUM else 2**64  # bpftool widens ENUM with its sign
            assert [(item.name, item.value % modulus) for item in types.enumerators(type_id)] == [
                (item["name"], item["val"] % modulus) for item in entry["values"]
            ]
        elif kind is Kind.ARRAY:
            assert types.array(type_id) == (entry["type_id"], entry["nr_elems"])
