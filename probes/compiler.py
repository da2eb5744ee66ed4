"""BPF C to loaded programs with BCC, with the types of the running kernel and no kernel headers.

BCC wants a kernel source tree: ``probes/shim`` is one of eight small files. The types come from BTF
(``probes.header``), so that a program cannot be compiled against another kernel's layouts.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from probes import btf, header
from probes.errors import ProbeError

__all__ = ("BPF_DIRECTORY", "compile_program", "expand", "load_function", "quiet")

BPF_DIRECTORY = Path(__file__).parent / "bpf"
"""Where our own ``.bpf.c`` and ``.bpf.h`` are, and where their includes are looked up."""

_SHOWN_LINES = 12
"""Of a compiler's or verifier's complaint: enough for the reason, still one screen."""

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"[^\n]*$', re.M)
_ONCE = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+once[^\n]*$", re.M)

_SEARCH_PATHS = ("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "OBJC_INCLUDE_PATH")
"""What clang reads from the environment: never for a program that runs in the kernel."""

_process = threading.RLock()
"""Working directory, environment and streams belong to the process: one build at a time."""


def compile_program(
    source: Path | str,
    *,
    cflags: Sequence[str] = (),
    roots: Iterable[str] = (),
    prelude: str = "",
) -> Any:
    """Compile a program and return BCC's ``BPF`` object, which can be falsy: compare with None.

    Maps exist then; nothing is loaded or attached, whatever the names of the functions.
    ``source`` is a file, or C text. Its ``#include "..."`` are taken from ``probes/bpf`` and put in
    place, because BCC rewrites only the main file. ``prelude`` is C text that comes first
    (constants, records), ``cflags`` may define macros, ``roots`` name types and members that no
    text shows (see ``header.generate``). Raises ProbeError with the last lines of the complaint.
    """
    name = source.name if isinstance(source, Path) else "program"
    text = expand(source)
    if prelude:
        text = f'#line 1 "prelude"\n{prelude}\n{text}'
    defined = [flag.partition("=")[2] for flag in cflags if flag.startswith("-D")]
    types = header.generate(btf.load(), "\n".join([text, *defined]), roots)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_process)
        types_path = stack.enter_context(_private_file(types))
        stack.enter_context(_shim_tree())
        build = stack.enter_context(quiet(f"{name} cannot be built", {types_path: "kernel types"}))
        flags = ["-include", types_path, *cflags, "-Wno-everything"]
        return build(_unattached(), text=text.encode(), cflags=flags)


def load_function(program: Any, function: str, program_type: int) -> Any:
    """Load one function of a compiled program; raise ProbeError with the verifier's last lines."""
    with _process, quiet(f"{function} was refused by the kernel") as load:
        return load(program.load_func, function.encode(), program_type)


def expand(source: Path | str) -> str:
    """Return C text with our own includes put in place; ``#line`` keeps the places of errors."""
    if isinstance(source, Path):
        return _expanded(_read(source), source.name, source.parent, set())
    return _expanded(source, "program", BPF_DIRECTORY, set())


def _expanded(text: str, name: str, directory: Path, once: set[Path]) -> str:
    parts = [f'#line 1 "{name}"\n']
    at = 0
    for match in _INCLUDE.finditer(text):
        parts.append(text[at : match.start()])
        parts.append(_included(match[1], directory, once))
        at = match.end()
        parts.append(f'#line {text.count(chr(10), 0, at) + 2} "{name}"')
    return "".join([*parts, text[at:]])


def _included(name: str, directory: Path, once: set[Path]) -> str:
    for folder in (directory, BPF_DIRECTORY):
        path = (folder / name).resolve()
        if path in once:
            return ""
        if path.is_file():
            text = _read(path)
            if _ONCE.search(text):
                once.add(path)
                text = _ONCE.sub("", text)
            return _expanded(text, path.name, path.parent, once) + "\n"
    raise ProbeError(f'{directory}: no "{name}" to include')


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise ProbeError(f"{path}: {error.strerror}") from error


@contextlib.contextmanager
def _private_file(text: str) -> Iterator[str]:
    """Give text a path that nobody else can write to, and that is gone with the process."""
    descriptor = os.memfd_create("kernel-types.h", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "w", closefd=False) as file:
            file.write(text)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _shim_tree() -> Iterator[None]:
    """Make BCC read the shim and nothing of the caller's.

    BCC puts ``-I <working directory>`` first: a ``./linux/types.h`` there would be compiled in.
    """
    changed = {name: os.environ.pop(name, None) for name in _SEARCH_PATHS}
    changed["BCC_KERNEL_SOURCE"] = os.environ.get("BCC_KERNEL_SOURCE")
    os.environ["BCC_KERNEL_SOURCE"] = str(header.SHIM)
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(header.SHIM)
        yield
    finally:
        os.fchdir(before)
        os.close(before)
        for name, value in changed.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def quiet(failure: str, renamed: dict[str, str] | None = None) -> Iterator[Any]:
    """Catch what BCC prints; when it fails, raise it as a ProbeError that begins with ``failure``.

    Yields a function that calls another one with the streams caught.
    """

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        with os.fdopen(os.memfd_create("bcc", os.MFD_CLOEXEC), "r+b") as caught:
            try:
                with _redirected(caught.fileno()):
                    return function(*args, **kwargs)
            except Exception as error:
                caught.seek(0)
                said = caught.read().decode(errors="replace")
                for old, new in (renamed or {}).items():
                    said = said.replace(old, new)
                raise ProbeError(f"{failure}: {error}\n{_last_useful(said)}".rstrip()) from error

    yield call


@contextlib.contextmanager
def _redirected(descriptor: int) -> Iterator[None]:
    libc = ctypes.CDLL(None)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    libc.fflush(None)
    kept = [(number, os.dup(number)) for number in (1, 2)]
    try:
        for number, _ in kept:
            os.dup2(descriptor, number)
        yield
    finally:
        libc.fflush(None)
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)


def _last_useful(said: str) -> str:
    """Return the compiler's errors with their context, or the end of the verifier's log."""
    lines = [line for line in said.splitlines() if line.strip()]
    errors = [at for at, line in enumerate(lines) if "error:" in line]
    if errors:
        lines = [line for at in errors for line in lines[at : at + 3]][:_SHOWN_LINES]
    return "\n".join(lines[-_SHOWN_LINES:])


def _unattached() -> Any:
    """Return BCC's class without its habit to attach what is called ``kprobe__...`` at once."""
    import bcc

    class Unattached(bcc.BPF):  # type: ignore[misc]
        def _trace_autoload(self) -> None:
            pass

    return Unattached
