"""The names in C text: what a program mentions, what it defines, what BCC has defined before it."""

from __future__ import annotations

import functools
import mmap
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = (
    "SHIM",
    "Provided",
    "defined_in",
    "identifiers",
    "provided_by_bcc",
    "strip_comments",
    "tags",
    "tracepoint_fields",
    "type_names",
)

SHIM = Path(__file__).parent / "shim"
"""The static files that stand for a kernel source tree; see ``probes.compiler``."""

TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))

_COMMENT_OR_STRING = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.S)
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_TAG = re.compile(r"\b(?:struct|union|enum)\s+([A-Za-z_]\w*)")
_TAG_DEFINED = re.compile(r"\b(?:struct|union|enum)\s+([A-Za-z_]\w*)\s*\{")
_ENUM_DEFINED = re.compile(r"\benum\b[^;{()]*\{([^}]*)\}")
_TYPEDEF_DEFINED = re.compile(r"\btypedef\b[^;{}]*?(\w+)\s*(?:\[[^\]]*\]\s*)?;|\}\s*(\w+)\s*;")
_TYPE_USE = re.compile(r"\b([A-Za-z_]\w*)\s*(?:\*[\s*]*\w*|\s[A-Za-z_]\w*|\*?\s*\))")
_TRACEPOINT = re.compile(r"\bTRACEPOINT_PROBE\s*\(\s*(\w+)\s*,\s*(\w+)|\btracepoint__(\w+?)__(\w+)")


def strip_comments(text: str) -> str:
    """Return C text without comments and without the contents of its strings."""
    return _COMMENT_OR_STRING.sub(lambda m: '""' if m.group().startswith('"') else " ", text)


@dataclass(frozen=True)
class Provided:
    """Names that are there before the generated header is read, and must not be declared again."""

    tags: frozenset[str] = frozenset()
    """Tags whose body is known."""
    identifiers: frozenset[str] = frozenset()
    """Enumerators and macros."""
    typedefs: frozenset[str] = frozenset()

    def __or__(self, other: Provided) -> Provided:
        return Provided(
            self.tags | other.tags,
            self.identifiers | other.identifiers,
            self.typedefs | other.typedefs,
        )


def defined_in(text: str) -> Provided:
    """Return what C text without comments defines itself."""
    enumerators = {
        name
        for body in _ENUM_DEFINED.findall(text)
        for name in re.findall(r"(?:^|,)\s*([A-Za-z_]\w*)", body)
    }
    typedefs = {a or b for a, b in _TYPEDEF_DEFINED.findall(text)}
    macros = set(re.findall(r"^[ \t]*#[ \t]*define[ \t]+(\w+)", text, re.M))
    return Provided(
        frozenset(_TAG_DEFINED.findall(text)), frozenset(enumerators | macros), frozenset(typedefs)
    )


@functools.lru_cache(maxsize=1)
def provided_by_bcc() -> Provided:
    """Return what BCC's embedded ``bpf.h`` and ``helpers.h`` and the shim define.

    The two are read from the library that is loaded, because they differ between versions of BCC.
    """
    shim = strip_comments((SHIM / "include/linux/types.h").read_text())
    text = _embedded_headers()
    names = frozenset(_IDENTIFIER.findall(text))
    return defined_in(text) | defined_in(shim) | Provided(identifiers=names)


def _embedded_headers() -> str:
    import bcc  # noqa: F401  (loads the library)

    with Path("/proc/self/maps").open() as maps:
        library = next(line.split()[-1] for line in maps if "/libbcc.so" in line)
    with (
        Path(library).open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as image,
    ):
        parts = []
        for guard in (b"#ifndef _UAPI__LINUX_BPF_H__", b"#ifndef __BPF_HELPERS_H"):
            begin = image.find(guard)
            while begin >= 0:
                end = image.find(b"\0", begin)
                parts.append(image[begin:end].decode(errors="replace"))
                begin = image.find(guard, end)
    return strip_comments("\n".join(parts))


def tracepoint_fields(text: str) -> str:
    """Return the field declarations of each tracepoint that BCC will make a struct for."""
    fields = []
    for match in _TRACEPOINT.finditer(text):
        category, event = (name for name in match.groups() if name)
        for root in TRACEFS:
            path = root / "events" / category / event / "format"
            try:
                found = re.findall(r"^\s*field:([^;]*;)", path.read_text(), re.M)
            except OSError:
                continue
            fields += found
            break
    return "\n".join(fields)


def identifiers(text: str) -> frozenset[str]:
    """Return every word of C text without comments."""
    return frozenset(_IDENTIFIER.findall(text))


def tags(text: str) -> tuple[str, ...]:
    """Return the tags that C text mentions, in order, each once."""
    return tuple(dict.fromkeys(_TAG.findall(text)))


def type_names(text: str) -> tuple[str, ...]:
    """Return what may be a typedef in C text, by where it stands or by its name, each once."""
    by_name = (name for name in _IDENTIFIER.findall(text) if name.endswith("_t"))
    return tuple(dict.fromkeys([*_TYPE_USE.findall(text), *by_name]))
