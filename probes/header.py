"""A C header for one program: the kernel types that it names, laid out as BTF says.

Reduced to what the program's text mentions: a struct keeps the members whose names occur in the
text, everything else becomes padding of the same size, so ``task_struct`` costs a dozen lines. The
closure follows the kept members. Each type carries ``_Static_assert`` of its size and of its
offsets: a layout that C cannot express stops the compiler, it never reads garbage.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from probes import names
from probes.btf import Btf, Kind, Member
from probes.names import Provided

__all__ = ("generate",)

_COMPOSITES = (Kind.STRUCT, Kind.UNION)
_ENUMS = (Kind.ENUM, Kind.ENUM64)

_WHOLE = frozenset({"pt_regs"})
"""Tags that keep every member: BCC itself writes ``ctx->di`` and the like into the program."""

_INT_NAMES = {"__int128 unsigned": "unsigned __int128"}


def generate(
    btf: Btf, text: str, roots: Iterable[str] = (), provided: Provided | None = None
) -> str:
    """Return the header for a program.

    ``text`` is the program with everything it includes. ``roots`` are further words to take as if
    they stood in the text: ``struct file``, ``pid_t``, a member's or a constant's name (a name that
    only comes into being by ``##`` is seen in no text). ``provided`` are names that exist before
    (``provided_by_bcc()`` by default).
    """
    program = names.strip_comments(text)
    fields = names.tracepoint_fields(program)
    words = "\n".join([program, " ;\n".join(roots), ";", fields, "struct pt_regs ;"])
    before = names.provided_by_bcc() if provided is None else provided
    header = _Header(btf, names.identifiers(words), before, names.defined_in(program))
    tags = names.tags(words)
    for tag in tags:
        header.claim_tag(tag)
    for tag in tags:
        header.add_tag(tag)
    header.add_constants()
    for name in names.type_names(words):
        header.add_typedef(name)
    return header.text()


@dataclass
class _Body:
    """The members of a struct as C, with what the struct around it has to know."""

    lines: list[str]
    align: int
    packed: bool
    asserts: list[tuple[str, int]]


@dataclass
class _Header:
    btf: Btf
    words: frozenset[str]
    provided: Provided
    """What BCC and the shim define, before this header."""
    declared: Provided
    """What the program defines, after this header."""
    forward: dict[str, str] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)
    claims: dict[str, int] = field(default_factory=dict)
    """The one type that each tag means here; another one of that tag stays opaque."""
    tags: set[str] = field(default_factory=set)
    """Tags whose body has been written."""
    typedefs: dict[str, int] = field(default_factory=dict)
    constants: set[str] = field(default_factory=set)
    aligns: dict[int, int] = field(default_factory=dict)
    pending: list[int] = field(default_factory=list)
    keeps: dict[int, bool] = field(default_factory=dict)
    gaps: Iterator[int] = field(default_factory=itertools.count)
    """Numbers the gaps: members of anonymous structs share one scope with those around them."""
    whole: set[int] = field(default_factory=set)
    """Types that keep every member."""

    # -- roots -----------------------------------------------------------------------------------

    def claim_tag(self, tag: str) -> None:
        """Settle which type a tag means, before any type that leads to another of that tag."""
        candidates = self.btf.tagged(tag)
        if candidates:
            self.claims[tag] = max(candidates, key=self._mentions)

    def add_tag(self, tag: str) -> None:
        if tag in self.claims:
            self.define(self.claims[tag])

    def add_typedef(self, name: str) -> None:
        known = (self.provided.typedefs, self.declared.typedefs, self.declared.identifiers)
        if any(name in existing for existing in known):
            return
        for type_id in self.btf.find(Kind.TYPEDEF, name)[:1]:
            self._typedef(type_id)
            self._complete(type_id)

    def add_constants(self) -> None:
        """Define the constants of the text whose enum nothing else brought."""
        wanted = {name for name in self.words if name[0] == "_" or name[0].isupper()}
        wanted -= self.provided.identifiers | self.declared.identifiers | self.constants
        for type_id in self.btf.enums_with(wanted):
            self._enum(type_id)

    def _mentions(self, type_id: int) -> int:
        """Count what the text names of a type: of two types with one tag, the likelier."""
        if self.btf.kind(type_id) not in _COMPOSITES:
            return sum(item.name in self.words for item in self.btf.enumerators(type_id))
        return sum(member.name in self.words for member in self.btf.members(type_id))

    def text(self) -> str:
        while self.pending:
            self.define(self.pending.pop())
        return "\n".join([*self.forward.values(), *self.parts, ""])

    # -- declarations ----------------------------------------------------------------------------

    def declare(self, type_id: int, inner: str, *, whole: bool = True) -> str:
        """Return C that declares ``inner`` with a type; what it needs is defined before."""
        btf = self.btf
        type_id = btf.strip(type_id, typedefs=False)
        kind = btf.kind(type_id)
        if kind is Kind.VOID:
            return f"void {inner}"
        if kind is Kind.PTR:
            return self._pointer(type_id, inner)
        if kind is Kind.ARRAY:
            element, count = btf.array(type_id)
            return self.declare(element, f"{inner}[{count}]", whole=whole)
        if kind is Kind.TYPEDEF:
            if whole:
                self._complete(type_id)
            name = self._typedef(type_id)
            return (
                f"{name} {inner}" if name else self.declare(btf.target(type_id), inner, whole=whole)
            )
        if kind is Kind.FWD:
            return f"{self._forward(type_id)} {inner}"
        if kind in _ENUMS:
            return f"{self._enum(type_id)} {inner}"
        if kind in _COMPOSITES:
            return self._composite(type_id, inner, whole=whole)
        if kind is Kind.INT:
            name = btf.name(type_id)
            return f"{_INT_NAMES.get(name, name)} {inner}"
        return f"unsigned char {inner}[{btf.size(type_id)}]"  # a floating-point number

    def _pointer(self, type_id: int, inner: str) -> str:
        btf = self.btf
        target = btf.strip(btf.target(type_id), typedefs=False)
        kind = btf.kind(target)
        if btf.kind(btf.strip(target)) is Kind.FUNC_PROTO or self._clashes(btf.strip(target)):
            return f"void *{inner}"
        inner = f"(*{inner})" if kind is Kind.ARRAY else f"*{inner}"
        return self.declare(target, inner, whole=False)

    def _composite(self, type_id: int, inner: str, *, whole: bool) -> str:
        tag = self.btf.name(type_id)
        word = "union" if self.btf.is_union(type_id) else "struct"
        if not tag:
            return self._inline(type_id, inner)
        if not whole:
            self.pending.append(type_id)
            return f"{self._forward(type_id)} {inner}"
        if self._clashes(type_id) or tag in self.declared.tags:
            self.aligns[type_id] = 1
            name, bracket, rest = inner.partition("[")
            return f"unsigned char {name}[{self.btf.size(type_id)}]{bracket}{rest}"
        self.define(type_id)
        return f"{word} {tag} {inner}"

    def _inline(self, type_id: int, inner: str) -> str:
        body = self._body(type_id)
        self.aligns[type_id] = body.align
        word = "union" if self.btf.is_union(type_id) else "struct"
        return "\n".join([f"{word} {{", *body.lines, f"}}{_attribute(body)} {inner}"])

    def _clashes(self, type_id: int) -> bool:
        """Say whether the type's tag means another type here."""
        if self.btf.kind(type_id) not in (*_COMPOSITES, Kind.ENUM, Kind.ENUM64):
            return False
        tag = self.btf.name(type_id)
        return bool(tag) and self.claims.setdefault(tag, type_id) != type_id

    def _forward(self, type_id: int) -> str:
        word = "union" if self.btf.is_union(type_id) else "struct"
        name = f"{word} {self.btf.name(type_id)}"
        self.forward.setdefault(self.btf.name(type_id), f"{name};")
        return name

    def _complete(self, type_id: int) -> None:
        """Define what a typedef stands for, where it is needed by value."""
        target = self.btf.strip(type_id)
        if self.btf.kind(target) in _COMPOSITES and self.btf.name(target):
            if not self._clashes(target):
                self.define(target)
        elif self.btf.kind(target) is Kind.ARRAY:
            self._complete(self.btf.array(target)[0])

    def _typedef(self, type_id: int) -> str | None:
        """Return the name of a typedef, defined before; None where another one has taken it."""
        name = self.btf.name(type_id)
        if name in self.provided.typedefs:
            return name
        if name not in self.words:  # then the program cannot miss it
            return None
        if name in self.declared.typedefs or self.typedefs.setdefault(name, type_id) != type_id:
            return None
        if type_id not in self.aligns:
            self.aligns[type_id] = 0
            target = self.btf.target(type_id)
            self.parts.append(f"typedef {self.declare(target, name, whole=False)};")
        return name

    # -- definitions -----------------------------------------------------------------------------

    def define(self, type_id: int) -> None:
        """Define a struct, union or enum with a tag, once."""
        tag = self.btf.name(type_id)
        if self.btf.kind(type_id) in _ENUMS:
            self._enum(type_id)
            return
        known = (self.tags, self.declared.tags, self.provided.tags)
        if any(tag in tags for tags in known) or self._clashes(type_id):
            return
        self.tags.add(tag)
        if tag in _WHOLE:
            self.whole.add(type_id)
        name = self._forward(type_id)
        body = self._body(type_id)
        self.aligns[type_id] = body.align
        size = self.btf.size(type_id)
        self.parts += [
            f"{name} {{",
            *body.lines,
            f"}}{_attribute(body)};",
            f'_Static_assert(sizeof({name}) == {size}, "{name}");',
        ]
        self.parts += [
            f'_Static_assert(__builtin_offsetof({name}, {path}) == {at}, "{name}.{path}");'
            for path, at in body.asserts
        ]

    def _enum(self, type_id: int) -> str:
        """Define an enum, reduced to the constants in the text; return its name as a type."""
        btf = self.btf
        tag, size = btf.name(type_id), btf.size(type_id)
        plain = f"{'' if btf.signed(type_id) else 'unsigned '}{_INTS.get(size, 'int')}"
        if tag in self.declared.tags or self._clashes(type_id):
            return plain
        if tag in self.provided.tags or (tag and tag in self.tags):
            return f"enum {tag}"
        values = list(btf.enumerators(type_id))
        if not values:  # only announced
            return plain
        known = (self.provided.identifiers, self.declared.identifiers, self.constants)
        cut = size == 8 and btf.kind(type_id) is Kind.ENUM  # before ENUM64: only 32 bits of a value
        kept = [
            item
            for item in values
            if item.name in self.words
            and not cut
            and not any(item.name in existing for existing in known)
        ]
        self.constants.update(item.name for item in kept)
        if tag:
            self.tags.add(tag)
        elif not kept:
            return plain
        lines = [f"    {item.name} = {_literal(item.value)}," for item in kept]
        if tag:  # the bounds give the enum the size and the sign that it has in the kernel
            bounds = {"least": min, "most": max}
            for word, bound in bounds.items():
                value = bound(item.value for item in values)
                lines.append(f"    __{tag}_{word} = {_literal(value)},")
            if cut:
                lines.append(f"    __{tag}_wide = {_literal(1 << 63)},")
        packed = " __attribute__((packed))" if size < 4 else ""
        self.parts += [f"enum {tag} {{" if tag else "enum {", *lines, f"}}{packed};"]
        if not tag:
            return plain
        self.parts.append(f'_Static_assert(sizeof(enum {tag}) == {size}, "enum {tag}");')
        return f"enum {tag}"

    # -- bodies ----------------------------------------------------------------------------------

    def _keeps(self, type_id: int) -> bool:
        """Say whether the text names a member of an anonymous struct or union."""
        type_id = self.btf.strip(type_id)
        if type_id not in self.keeps:
            self.keeps[type_id] = self.btf.kind(type_id) in _COMPOSITES and any(
                self._kept(member) for member in self.btf.members(type_id)
            )
        return self.keeps[type_id]

    def _kept(self, member: Member, *, whole: bool = False) -> bool:
        if whole and not member.name:
            self.whole.add(self.btf.strip(member.type))
        if whole:
            return True
        return member.name in self.words if member.name else self._keeps(member.type)

    def _body(self, type_id: int) -> _Body:
        members = [
            (member, self._member(member))
            for member in self.btf.members(type_id)
            if self._kept(member, whole=type_id in self.whole)
        ]
        size = self.btf.size(type_id)
        align = max((self._align(member.type) for member, _ in members), default=1)
        packed = size % align != 0 or any(
            member.bit_size or member.offset % self._align(member.type) for member, _ in members
        )
        if packed:
            align = min(align, 8, size & -size or 1)
        layout = self._union_lines if self.btf.is_union(type_id) else self._struct_lines
        asserts = [
            pair
            for member, _ in members
            if not member.bit_size
            for pair in self._asserts(member, 0)
        ]
        return _Body(layout(members, size), align, packed, asserts)

    def _struct_lines(self, members: list[tuple[Member, str]], size: int) -> list[str]:
        lines: list[str] = []
        at = 0
        for member, text in members:
            lines += self._gap(at, member.bit_offset)
            lines.append(f"    {text};")
            at = member.bit_offset + (member.bit_size or 8 * self.btf.size(member.type))
        return lines + self._gap(at, 8 * size)

    def _union_lines(self, members: list[tuple[Member, str]], size: int) -> list[str]:
        return [f"    {text};" for _, text in members] + self._gap(0, 8 * size)

    def _gap(self, begin: int, end: int) -> list[str]:
        """Return padding from one bit to another, in bits only beside a bitfield."""
        lines = []
        if begin % 8 and begin < end:
            bits = min(8 - begin % 8, end - begin)
            lines.append(f"    unsigned char : {bits};")
            begin += bits
        if whole := (end - begin) // 8:
            lines.append(f"    unsigned char __gap_{next(self.gaps)}[{whole}];")
            begin += 8 * whole
        if begin < end:
            lines.append(f"    unsigned char : {end - begin};")
        return lines

    def _member(self, member: Member) -> str:
        if not member.name:  # with -fms-extensions (since 6.19) its struct may have a tag
            return self._inline(self.btf.strip(member.type), "")
        text = self.declare(member.type, member.name)
        return f"{text} : {member.bit_size}" if member.bit_size else text

    def _asserts(self, member: Member, base: int) -> list[tuple[str, int]]:
        at = base + member.offset
        if member.name:
            return [(member.name, at)]
        return [
            pair
            for inside in self.btf.members(self.btf.strip(member.type))
            if self._kept(inside, whole=self.btf.strip(member.type) in self.whole)
            and not inside.bit_size
            for pair in self._asserts(inside, at)
        ]

    def _align(self, type_id: int) -> int:
        """Return the alignment of a type as emitted here."""
        btf = self.btf
        type_id = btf.strip(type_id)
        kind = btf.kind(type_id)
        if kind is Kind.ARRAY:
            return self._align(btf.array(type_id)[0])
        if kind in _COMPOSITES:
            tag = btf.name(type_id)
            if tag in self.provided.tags:
                return self._natural(type_id)
            return self.aligns.get(type_id, 1)
        if kind is Kind.FLOAT:
            return 1
        return max(btf.size(type_id), 1)

    def _natural(self, type_id: int) -> int:
        """Return the alignment of a struct as its own members give it."""
        btf = self.btf
        type_id = btf.strip(type_id)
        if btf.kind(type_id) is Kind.ARRAY:
            return self._natural(btf.array(type_id)[0])
        if btf.kind(type_id) in _COMPOSITES:
            return max((self._natural(member.type) for member in btf.members(type_id)), default=1)
        return max(btf.size(type_id), 1)


_INTS = {1: "char", 2: "short", 4: "int", 8: "long"}


def _attribute(body: _Body) -> str:
    return f" __attribute__((packed, aligned({body.align})))" if body.packed else ""


def _literal(value: int) -> str:
    if value > 0x7FFFFFFF:
        return f"{value:#x}U" if value <= 0xFFFFFFFF else f"{value:#x}ULL"
    return str(value) if value >= -0x7FFFFFFF else f"(-{-value - 1}LL - 1)"
