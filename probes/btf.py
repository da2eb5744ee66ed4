"""BTF, the kernel's description of its own types: read fast, looked up by name.

Works with ``/sys/kernel/btf/vmlinux`` of the running kernel, or with the bytes of any ``.BTF``.
The format is that of ``Documentation/bpf/btf.rst`` and ``include/uapi/linux/btf.h``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from probes.errors import ProbeError

__all__ = ("VMLINUX", "Btf", "Enumerator", "Kind", "Member", "Parameter", "Prototype", "load")

VMLINUX = Path("/sys/kernel/btf/vmlinux")

_MAGIC = 0xEB9F


class Kind(IntEnum):
    """``BTF_KIND_*`` of ``include/uapi/linux/btf.h``."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


_FIXED_WORDS = {Kind.INT: 4, Kind.ARRAY: 6, Kind.VAR: 4, Kind.DECL_TAG: 4}
"""Words of a type without its list; three where nothing is said here."""

_ITEM_WORDS = {
    Kind.STRUCT: 3,
    Kind.UNION: 3,
    Kind.ENUM: 2,
    Kind.FUNC_PROTO: 2,
    Kind.DATASEC: 3,
    Kind.ENUM64: 3,
}
"""Words of each of the ``vlen`` items that follow the type."""

QUALIFIERS = frozenset({Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG})
"""Kinds that stand before another type and change neither its size nor its members."""

_POINTER_SIZE = 8


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a struct or union, offsets in bits; ``bit_size`` is 0 unless it is a bitfield."""

    name: str
    type: int
    bit_offset: int
    bit_size: int

    @property
    def offset(self) -> int:
        """The offset in bytes."""
        return self.bit_offset // 8


@dataclass(frozen=True, slots=True)
class Enumerator:
    """A named constant of an enum."""

    name: str
    value: int


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a kernel function; ``type`` is C text such as ``struct sock *``."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Prototype:
    """A kernel function: its parameters in order, and the type it returns."""

    name: str
    parameters: tuple[Parameter, ...]
    returns: str

    def position(self, parameter: str) -> int | None:
        """Return the 0-based position of a parameter, or None where this kernel has no such one."""
        for position, candidate in enumerate(self.parameters):
            if candidate.name == parameter:
                return position
        return None

    @property
    def return_slot(self) -> int:
        """The index of the return value in the context of an fexit program."""
        return len(self.parameters)


class Btf:
    """The types of one kernel; a type is named by its id, ids are valid in this object only."""

    def __init__(self, data: bytes, origin: str = "BTF") -> None:
        """Index the raw bytes of a ``.BTF``; raise ProbeError where they are none."""
        self.origin = origin
        words, self._strings = _sections(data, origin)
        self._words = words.data
        self._starts = _starts(self._words, origin)
        starts = np.array(self._starts)
        self._kinds: npt.NDArray[np.uint8] = ((words[starts + 1] >> 24) & 0x7F).astype(np.uint8)
        self._names: npt.NDArray[np.uint32] = words[starts]
        self._kinds[0] = Kind.VOID
        self._names[0] = 0
        self._numpy_words, self._numpy_starts = words, starts
        self._by_kind: dict[Kind, dict[str, list[int]]] = {}

    def __len__(self) -> int:
        return len(self._starts)

    # -- types by name ---------------------------------------------------------------------------

    def find(self, kind: Kind, name: str) -> list[int]:
        """Return the ids of the types of this kind and name; the kernel can have several."""
        if kind is Kind.FUNC:  # 56,000 of them: an index would cost more than it saves
            offset = self._string_offset(name)
            if offset is None:
                return []
            return [int(i) for i in np.flatnonzero((self._names == offset) & (self._kinds == kind))]
        return self._index(kind).get(name, [])

    def tagged(self, name: str) -> list[int]:
        """Return the ids of the structs, unions and enums whose tag is ``name``."""
        kinds = (Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64)
        return [type_id for kind in kinds for type_id in self.find(kind, name)]

    def named(self, kind: Kind) -> Iterable[str]:
        """Return the names of every type of a kind."""
        return self._index(kind).keys()

    def _index(self, kind: Kind) -> dict[str, list[int]]:
        if kind not in self._by_kind:
            index: dict[str, list[int]] = {}
            ids = np.flatnonzero((self._kinds == kind) & (self._names != 0))
            for type_id, offset in zip(ids.tolist(), self._names[ids].tolist(), strict=True):
                index.setdefault(self._string(offset), []).append(type_id)
            self._by_kind[kind] = index
        return self._by_kind[kind]

    # -- functions -------------------------------------------------------------------------------

    def has_function(self, name: str) -> bool:
        """Say whether this kernel has a function of this name that BTF describes."""
        return bool(self.find(Kind.FUNC, name))

    def function(self, name: str) -> Prototype | None:
        """Return the prototype of a kernel function, or None where this kernel has no such one."""
        for function in self.find(Kind.FUNC, name):
            proto = self.target(function)
            start = self._starts[proto]
            items = range(start + 3, start + 3 + 2 * self._vlen(proto), 2)
            parameters = tuple(
                Parameter(self._string(self._words[at]), self.type_text(self._words[at + 1]))
                for at in items
            )
            return Prototype(name, parameters, self.type_text(self.target(proto)))
        return None

    # -- one type --------------------------------------------------------------------------------

    def kind(self, type_id: int) -> Kind:
        """Return the kind of a type."""
        return Kind(int(self._kinds[type_id]))

    def name(self, type_id: int) -> str:
        """Return the name of a type, empty for one without."""
        return self._string(int(self._names[type_id]))

    def target(self, type_id: int) -> int:
        """Return the type that a pointer, qualifier, typedef, function or prototype refers to."""
        return self._words[self._starts[type_id] + 2]

    def strip(self, type_id: int, *, typedefs: bool = True) -> int:
        """Return the type behind qualifiers, and behind typedefs too unless told not to."""
        while (kind := self.kind(type_id)) in QUALIFIERS or (typedefs and kind is Kind.TYPEDEF):
            type_id = self.target(type_id)
        return type_id

    def array(self, type_id: int) -> tuple[int, int]:
        """Return the element type of an array and the number of elements, 0 for a flexible one."""
        start = self._starts[type_id]
        return self._words[start + 3], self._words[start + 5]

    def signed(self, type_id: int) -> bool:
        """Say whether an integer or an enum is signed."""
        if self.kind(type_id) is Kind.INT:
            return bool(self._words[self._starts[type_id] + 3] >> 24 & 1)
        return self._kind_flag(type_id)

    def size(self, type_id: int) -> int:
        """Return the size of a type in bytes; 0 for one that has none."""
        type_id = self.strip(type_id)
        kind = self.kind(type_id)
        if kind is Kind.PTR:
            return _POINTER_SIZE
        if kind is Kind.ARRAY:
            element, count = self.array(type_id)
            return self.size(element) * count
        if kind in (Kind.VOID, Kind.FWD, Kind.FUNC, Kind.FUNC_PROTO, Kind.VAR, Kind.DECL_TAG):
            return 0
        return self._words[self._starts[type_id] + 2]

    def members(self, type_id: int) -> Iterator[Member]:
        """Yield the members of a struct or union in order; an anonymous one has no name."""
        start = self._starts[type_id] + 3
        words = self._words
        flagged = self._kind_flag(type_id)  # then the upper byte of an offset is a bitfield's width
        for at in range(start, start + 3 * self._vlen(type_id), 3):
            name, member_type, offset = words[at : at + 3]
            if flagged:
                width, offset = offset >> 24, offset & 0xFFFFFF
            else:
                width, offset = self._int_width(member_type, offset)
            yield Member(self._string(name), member_type, offset, width)

    def member(self, tag: str, path: str) -> Member | None:
        """Find a member through nested and anonymous structs; None where this kernel has none.

        ``member("sock", "__sk_common.skc_state")``: the offset is from the beginning of ``tag``.
        """
        for type_id in self.tagged(tag):
            if (found := self._walk(type_id, path.split("."), 0)) is not None:
                return found
        return None

    def _walk(self, type_id: int, path: list[str], base: int) -> Member | None:
        type_id = self.strip(type_id)
        if self.kind(type_id) not in (Kind.STRUCT, Kind.UNION):
            return None
        for member in self.members(type_id):
            offset = base + member.bit_offset
            if not member.name:
                found = self._walk(member.type, path, offset)
                if found is not None:
                    return found
            elif member.name == path[0]:
                if len(path) == 1:
                    return Member(member.name, member.type, offset, member.bit_size)
                return self._walk(member.type, path[1:], offset)
        return None

    def enumerators(self, type_id: int) -> Iterator[Enumerator]:
        """Yield the constants of an enum in order."""
        start = self._starts[type_id] + 3
        wide = self.kind(type_id) is Kind.ENUM64
        width = 3 if wide else 2
        bits = 64 if wide else 32
        signed = self._kind_flag(type_id)
        for at in range(start, start + width * self._vlen(type_id), width):
            value = self._words[at + 1] | (self._words[at + 2] << 32 if wide else 0)
            if signed and value >> (bits - 1):
                value -= 1 << bits
            yield Enumerator(self._string(self._words[at]), value)

    def enums_with(self, names: Iterable[str]) -> list[int]:
        """Return the ids of the enums that define one of these constants."""
        wanted = self._string_offsets(names)
        found: set[int] = set()
        for kind, width in ((Kind.ENUM, 2), (Kind.ENUM64, 3)):
            ids = np.flatnonzero(self._kinds == kind)
            if not len(ids):
                continue
            starts = self._numpy_starts[ids]
            counts = (self._numpy_words[starts + 1] & 0xFFFFFF).astype(np.int64)
            first = np.cumsum(counts) - counts
            ordinal = np.arange(int(counts.sum())) - np.repeat(first, counts)
            names_at = np.repeat(starts + 3, counts) + ordinal * width
            hit = np.isin(self._numpy_words[names_at], wanted)
            found.update(np.repeat(ids, counts)[hit].tolist())
        return sorted(found)

    def type_text(self, type_id: int) -> str:
        """Return a type as C text, for people and for programs: ``const struct sock *``."""
        kind = self.kind(type_id)
        if kind is Kind.VOID:
            return "void"
        if kind in (Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.FWD):
            word = {Kind.STRUCT: "struct", Kind.UNION: "union"}.get(kind, "enum")
            if kind is Kind.FWD:
                word = "union" if self._kind_flag(type_id) else "struct"
            return f"{word} {self.name(type_id) or '{...}'}"
        if kind is Kind.PTR:
            target = self.target(type_id)
            if self.kind(self.strip(target, typedefs=False)) is Kind.FUNC_PROTO:
                return "void *"
            text = self.type_text(target)
            return text + ("*" if text.endswith("*") else " *")
        if kind in (Kind.CONST, Kind.VOLATILE, Kind.RESTRICT):
            text = self.type_text(self.target(type_id))
            word = kind.name.lower()
            return f"{text} {word}" if text.endswith("*") else f"{word} {text}"
        if kind is Kind.TYPE_TAG:
            return self.type_text(self.target(type_id))
        if kind is Kind.ARRAY:
            element, count = self.array(type_id)
            return f"{self.type_text(element)}[{count}]"
        return self.name(type_id)

    # -- words and strings -----------------------------------------------------------------------

    def is_union(self, type_id: int) -> bool:
        """Say whether a type, or the type that a forward declaration announces, is a union."""
        kind = self.kind(type_id)
        return kind is Kind.UNION or (kind is Kind.FWD and self._kind_flag(type_id))

    def _int_width(self, type_id: int, offset: int) -> tuple[int, int]:
        """Return width and offset of a bitfield whose integer type holds them (pahole < 1.12)."""
        type_id = self.strip(type_id)
        if self.kind(type_id) is not Kind.INT:
            return 0, offset
        encoding = self._words[self._starts[type_id] + 3]
        bits, shift = encoding & 0xFF, encoding >> 16 & 0xFF
        if bits == 8 * self._words[self._starts[type_id] + 2]:
            return 0, offset
        return bits, offset + shift

    def _kind_flag(self, type_id: int) -> bool:
        return bool(self._words[self._starts[type_id] + 1] >> 31)

    def _vlen(self, type_id: int) -> int:
        return self._words[self._starts[type_id] + 1] & 0xFFFFFF

    def _string(self, offset: int) -> str:
        end = self._strings.index(b"\0", offset)
        return self._strings[offset:end].decode()

    def _string_offset(self, name: str) -> int | None:
        at = self._strings.find(b"\0" + name.encode() + b"\0")
        return None if at < 0 else at + 1

    def _string_offsets(self, names: Iterable[str]) -> npt.NDArray[np.uint32]:
        """Return the offsets of many names: compare eight leading bytes, then the few left."""
        wanted = {name.encode() for name in names}
        if not wanted:
            return np.array([], dtype=np.uint32)
        starts = self._string_starts
        padded = np.frombuffer(self._strings + bytes(8), dtype=np.uint8)
        eight = np.lib.stride_tricks.as_strided(
            padded, shape=(len(self._strings), 8), strides=(1, 1), writeable=False
        )[starts]
        heads = np.ascontiguousarray(eight).view(np.uint64).ravel()
        lengths = np.diff(starts, append=len(self._strings)) - 1
        keep = np.array([0] + [(1 << 8 * n) - 1 for n in range(1, 9)], dtype=np.uint64)
        heads = heads & keep[np.minimum(lengths, 8)]
        keys = np.array(
            [int.from_bytes(name[:8].ljust(8, b"\0"), "little") for name in wanted], dtype=np.uint64
        )
        candidates = starts[np.isin(heads, keys)].tolist()
        strings = self._strings
        return np.array(
            [at for at in candidates if strings[at : strings.index(b"\0", at)] in wanted],
            dtype=np.uint32,
        )

    @functools.cached_property
    def _string_starts(self) -> npt.NDArray[np.int64]:
        ends = np.flatnonzero(np.frombuffer(self._strings, dtype=np.uint8) == 0)
        return np.concatenate([[0], ends[:-1] + 1])


@functools.lru_cache(maxsize=1)
def load() -> Btf:
    """Return the BTF of the running kernel; raise ProbeError where the kernel gives none."""
    try:
        data = VMLINUX.read_bytes()
    except OSError as error:
        raise ProbeError(
            f"{VMLINUX}: {error.strerror}; iophase takes the kernel's types from there and needs "
            "a kernel built with CONFIG_DEBUG_INFO_BTF=y (stock kernels are, since 5.10)"
        ) from error
    return Btf(data, str(VMLINUX))


def _sections(data: bytes, origin: str) -> tuple[npt.NDArray[np.uint32], bytes]:
    """Return the type section as words and the string section."""
    if len(data) < 24 or int.from_bytes(data[:2], "little") != _MAGIC:
        raise ProbeError(f"{origin}: no BTF of a little-endian kernel")
    header, type_at, type_length, string_at, string_length = (
        int(word) for word in np.frombuffer(data, dtype="<u4", count=5, offset=4)
    )
    types = np.frombuffer(data, dtype="<u4", count=type_length // 4, offset=header + type_at)
    strings_from = header + string_at
    if strings_from + string_length > len(data):
        raise ProbeError(f"{origin}: BTF is cut short")
    if not len(types):
        raise ProbeError(f"{origin}: BTF has no types")
    return types, data[strings_from : strings_from + string_length]


def _starts(words: memoryview, origin: str) -> list[int]:
    """Return the word at which each type begins; id 0, void, has none and stands at 0."""
    last = max(Kind)
    fixed = [_FIXED_WORDS.get(Kind(kind), 3) for kind in range(last + 1)]
    item = [_ITEM_WORDS.get(Kind(kind), 0) for kind in range(last + 1)]
    starts = [0]
    append = starts.append
    at, end = 0, len(words)
    while at < end:
        append(at)
        info = words[at + 1]
        kind = info >> 24 & 0x7F
        if kind > last:
            raise ProbeError(f"{origin}: BTF kind {kind} is not known to this version of iophase")
        at += fixed[kind] + (info & 0xFFFFFF) * item[kind]
    return starts
