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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from probes import btf, header
from probes.errors import ProbeError
from probes.names import SHIM

__all__ = ("BPF_DIRECTORY", "compile_program", "expand", "load_function", "quietly")

BPF_DIRECTORY = Path(__file__).parent / "bpf"
"""Where our own ``.bpf.c`` and ``.bpf.h`` are, and where their includes are looked up."""

_SHOWN_LINES = 12
"""Of a compiler's or verifier's complaint: enough for the reason, still one screen."""

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"[^\n]*$', re.M)
_ONCE = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+once[^\n]*$", re.M)

_COMPILER_ERROR = re.compile(r"\S.*:\d+:\d+: (fatal )?error: ")
_TYPES_PATH = re.compile(r"/proc/self/fd/\d+")

_SEARCH_PATHS = ("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "OBJC_INCLUDE_PATH")
"""What clang reads from the environment: never for a program that runs in the kernel."""

_FLAGS = ("-Wno-everything", "-g0")
"""Nobody reads the debugging information, and making it takes a sixth of the time."""

_CLONE_FS = 0x200

_process = threading.RLock()
"""Environment and standard streams belong to the process: one build at a time."""


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
    bpf = _unattached()
    name = source.name if isinstance(source, Path) else "program"
    text = expand(source)
    if prelude:
        text = f'#line 1 "prelude"\n{prelude}\n{text}'
    macros = [flag[2:].replace("=", " ", 1) for flag in cflags if flag.startswith("-D")]
    defined = "".join(f"#define {macro}\n" for macro in macros)
    types = header.generate(btf.load(), defined + text, roots)
    with _process, _shim_environment(), _private_file(types) as path:
        flags = ["-include", path, *cflags, *_FLAGS]
        failure = f"{name} cannot be built"
        return quietly(failure, _in_shim, bpf, text=text.encode(), cflags=flags)


def load_function(program: Any, function: str, program_type: int) -> Any:
    """Load one function of a compiled program; raise ProbeError with the verifier's last lines."""
    failure = f"{function} was refused by the kernel"
    return quietly(failure, program.load_func, function.encode(), program_type)


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
def _shim_environment() -> Iterator[None]:
    """Point BCC to the shim, and keep the search paths of the caller's environment from clang."""
    changed = {name: os.environ.pop(name, None) for name in _SEARCH_PATHS}
    changed["BCC_KERNEL_SOURCE"] = os.environ.get("BCC_KERNEL_SOURCE")
    os.environ["BCC_KERNEL_SOURCE"] = str(SHIM)
    try:
        yield
    finally:
        for name, value in changed.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _in_shim(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function in the shim's directory, without moving the process there.

    BCC puts ``-I <working directory>`` first: a ``./linux/types.h`` there would be compiled in. A
    thread that shares no file-system context with the others, unshare(2), has one of its own.
    """

    def call() -> Any:
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_FS):
            reason = os.strerror(ctypes.get_errno())
            raise ProbeError(f"cannot leave the working directory for {SHIM}: {reason}")
        os.chdir(SHIM)
        return function(*args, **kwargs)

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(call).result()


def quietly(failure: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call into BCC with what it prints caught.

    When the call fails, raise a ProbeError that begins with ``failure`` and ends with the last
    lines of what was printed; otherwise they are dropped.
    """
    with _process, os.fdopen(os.memfd_create("bcc", os.MFD_CLOEXEC), "r+b") as caught:
        try:
            with _redirected(caught.fileno()):
                return function(*args, **kwargs)
        except ProbeError:
            raise
        except Exception as error:  # BCC raises no other
            caught.seek(0)
            said = _last_useful(caught.read().decode(errors="replace"))
            raise ProbeError(f"{failure}: {_reason(error, said)}\n{said}".rstrip()) from error


def _reason(error: Exception, said: str) -> str:
    """Return why BCC failed, without what it says in every case and what it guesses.

    What cannot be attached it takes for "not traceable"; the kernel's word ends what it printed.
    """
    reason = str(error).rpartition(": ")[2]
    if reason.startswith("Failed to attach") and said:
        return re.split("[:,] ", said)[-1]
    if "super-user" in reason and os.geteuid() == 0:
        return "Operation not permitted, though this is root: a policy of this host"
    return reason


@contextlib.contextmanager
def _redirected(descriptor: int) -> Iterator[None]:
    libc = ctypes.CDLL(None)
    for stream in filter(None, (sys.stdout, sys.stderr)):
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
    said = _TYPES_PATH.sub("kernel types", said)
    said = said.partition("\nCausal path:")[0]  # since 7.3 pages of advice follow the reason
    noise = ("bpf: Failed to load program", "processed ")
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(noise)]
    errors = [at for at, line in enumerate(lines) if _COMPILER_ERROR.match(line)]
    if errors:
        lines = [line for at in errors for line in lines[at : at + 3]][:_SHOWN_LINES]
    return "\n".join(lines[-_SHOWN_LINES:])


def _unattached() -> Any:
    """Return BCC's class without its habit to attach what is called ``kprobe__...`` at once."""
    try:
        from bcc import BPF
    except ImportError as error:
        raise ProbeError(
            f"BCC cannot be imported ({error}); install the distribution's python3-bpfcc "
            "(bcc on PyPI is another project)"
        ) from error

    class Unattached(BPF):  # type: ignore[misc]
        def _trace_autoload(self) -> None:
            pass

    return Unattached
