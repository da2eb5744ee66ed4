"""BTF made by hand: the bytes of a small kernel whose layouts are known."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from probes.btf import Btf, Kind

Members = Sequence[tuple[str, int, int]]
"""Name, type, and offset word of each member; with ``kflag`` the width is in its upper byte."""


class BtfBytes:
    """Collects types; each method returns the new type's id."""

    def __init__(self) -> None:
        self._types: list[bytes] = []
        self._strings = bytearray(b"\0")
        self._offsets = {"": 0}

    def _string(self, text: str) -> int:
        if text not in self._offsets:
            self._offsets[text] = len(self._strings)
            self._strings += text.encode() + b"\0"
        return self._offsets[text]

    def _add(
        self,
        kind: Kind,
        name: str = "",
        last: int = 0,
        *rest: int,
        vlen: int = 0,
        kflag: bool = False,
    ) -> int:
        info = kflag << 31 | kind << 24 | vlen
        words = [self._string(name), info, last, *rest]
        self._types.append(struct.pack(f"<{len(words)}I", *(word % 2**32 for word in words)))
        return len(self._types)

    def integer(self, name: str, size: int, *, signed: bool = False, bits: int = 0) -> int:
        return self._add(Kind.INT, name, size, signed << 24 | (bits or 8 * size))

    def pointer(self, target: int) -> int:
        return self._add(Kind.PTR, "", target)

    def array(self, element: int, count: int) -> int:
        return self._add(Kind.ARRAY, "", 0, element, element, count)

    def struct(self, name: str, size: int, members: Members, *, kflag: bool = False) -> int:
        return self._composite(Kind.STRUCT, name, size, members, kflag)

    def union(self, name: str, size: int, members: Members, *, kflag: bool = False) -> int:
        return self._composite(Kind.UNION, name, size, members, kflag)

    def _composite(self, kind: Kind, name: str, size: int, members: Members, kflag: bool) -> int:
        items = [word for text, *rest in members for word in (self._string(text), *rest)]
        return self._add(kind, name, size, *items, vlen=len(members), kflag=kflag)

    def enum(
        self, name: str, values: dict[str, int], *, size: int = 4, signed: bool = False
    ) -> int:
        items = [word for text, value in values.items() for word in (self._string(text), value)]
        return self._add(Kind.ENUM, name, size, *items, vlen=len(values), kflag=signed)

    def enum64(self, name: str, values: dict[str, int], *, signed: bool = False) -> int:
        items = [
            word
            for text, value in values.items()
            for word in (self._string(text), value, value >> 32)
        ]
        return self._add(Kind.ENUM64, name, 8, *items, vlen=len(values), kflag=signed)

    def float(self, name: str, size: int) -> int:
        return self._add(Kind.FLOAT, name, size)

    def wrap(self, kind: Kind, target: int, name: str = "") -> int:
        """Add a typedef, a qualifier, or a type tag."""
        return self._add(kind, name, target)

    def forward(self, name: str) -> int:
        return self._add(Kind.FWD, name)

    def declaration_tag(self, name: str, target: int) -> int:
        return self._add(Kind.DECL_TAG, name, target, -1)

    def function(self, name: str, returns: int, parameters: Sequence[tuple[str, int]]) -> int:
        items = [word for text, kind in parameters for word in (self._string(text), kind)]
        proto = self._add(Kind.FUNC_PROTO, "", returns, *items, vlen=len(parameters))
        return self._add(Kind.FUNC, name, proto)

    def data(self) -> bytes:
        """Return the ``.BTF`` section."""
        types = b"".join(self._types)
        header = struct.pack(
            "<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(self._strings)
        )
        return header + types + bytes(self._strings)

    def btf(self) -> Btf:
        return Btf(self.data(), "made by hand")
