"""The raw records on disk while a trace is made: a header that describes them, then the records.

Writes are not buffered in the process: the drain already brings batches, and what was written
survives the death of the process.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from probes.layout import CALL, RECORD_SIZE, c_definitions
from tracer.errors import IophaseError
from tracer.newfile import new_file
from tracer.ring import Records

__all__ = ("CallName", "NamedCall", "Spool", "SpoolWriter", "layout_digest", "open_spool")

_FORMAT = 1
_HEADER_LIMIT = 1 << 20
"""Far above the few KB of a header: a first line longer than this is not a spool."""
_ALIGNMENT = 8
"""The records begin at a multiple of their largest field."""


class NamedCall(Protocol):
    """What a spool keeps of ``probes.calls.Call``."""

    @property
    def name(self) -> str:
        """The system call's name."""

    @property
    def kind(self) -> str:
        """One of ``receive``, ``wait``, ``accept``."""


class CallName(NamedTuple):
    """A call of a spool's own table; the index in the table is the record's ``call``."""

    name: str
    kind: str


def layout_digest() -> str:
    """Return what identifies the record layout of this version."""
    return hashlib.sha256(c_definitions().encode()).hexdigest()[:16]


class SpoolWriter:
    """Append records to a new file at ``path``; ``records`` counts the ones that are safely in it.

    The file stays locked until ``close``, or the death of the process, so that nobody takes a trace
    that is being made for one that was cut short. Raises IophaseError when the disk is full: what
    was measured until then stays in the file, as whole records.
    """

    def __init__(self, path: Path, calls: Sequence[NamedCall]) -> None:
        self.path = path
        self.records = 0
        try:
            self._fd = new_file(path)
        except OSError as error:
            raise _cannot_write(path, error, "nothing was recorded") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._size = self._write(memoryview(_header(calls)))
        except OSError as error:
            os.close(self._fd)
            path.unlink(missing_ok=True)
            raise _cannot_write(path, error, "nothing was recorded") from error

    @property
    def size(self) -> int:
        """Bytes of the file: its header and whole records."""
        return self._size

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def append(self, records: Records) -> None:
        """Write a batch of whole records of ``RECORD_SIZE`` bytes."""
        if records.dtype.itemsize != RECORD_SIZE:
            raise ValueError(f"a record of {records.dtype.itemsize} bytes, not {RECORD_SIZE}")
        batch = np.ascontiguousarray(records).view(np.uint8).data
        try:
            written = self._write(batch)
        except OSError as error:
            whole = (os.fstat(self._fd).st_size - self._size) // RECORD_SIZE
            self._grow(whole)
            os.ftruncate(self._fd, self._size)
            os.lseek(self._fd, 0, os.SEEK_END)
            raise _cannot_write(
                self.path, error, f"the {self.records:,} records before that are kept"
            ) from error
        self._grow(written // RECORD_SIZE)

    def close(self) -> None:
        """Close the file and let go of the lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _grow(self, records: int) -> None:
        self.records += records
        self._size += records * RECORD_SIZE

    def _write(self, data: memoryview) -> int:
        written = 0
        while written < len(data):
            written += os.write(self._fd, data[written:])
        return written


def _header(calls: Sequence[NamedCall]) -> bytes:
    fields = {
        "iophase_spool": _FORMAT,
        "record_size": RECORD_SIZE,
        "layout": layout_digest(),
        "calls": [[call.name, call.kind] for call in calls],
    }
    line = json.dumps(fields).encode()
    return line + b" " * (-(len(line) + 1) % _ALIGNMENT) + b"\n"


def _cannot_write(path: Path, error: OSError, kept: str) -> IophaseError:
    return IophaseError(f"{path}: cannot be written: {error.strerror}; {kept}")


@dataclass(frozen=True)
class Spool:
    """A spool opened for reading: its call table, and its records as an array on disk."""

    calls: tuple[CallName, ...]
    records: Records
    """Viewed as ``probes.layout.CALL``; a last record that was cut short is left out."""
    _map: mmap.mmap | None = None

    def release(self) -> None:
        """Hand the memory of the records back that were looked at; they can be looked at again."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)


def open_spool(path: Path) -> Spool:
    """Map the records of the spool at ``path``; raise IophaseError when this version cannot."""
    try:
        with path.open("rb") as file:
            line = file.readline(_HEADER_LIMIT)
            calls = _parse_header(path, line)
            size = os.fstat(file.fileno()).st_size
            if size - len(line) < RECORD_SIZE:
                return Spool(calls, np.empty(0, CALL))
            given_up = _records_given_up(file.fileno(), len(line), size)
            count = (size - len(line)) // RECORD_SIZE - given_up
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    except OSError as error:
        raise IophaseError(f"{path}: cannot be read: {error.strerror}") from error
    begin = len(line) + given_up * RECORD_SIZE
    return Spool(calls, np.frombuffer(mapped, CALL, count, begin), mapped)


def _records_given_up(fd: int, begin: int, size: int) -> int:
    """Return how many records at the beginning a rotation has made a hole of (lseek(2))."""
    hole = os.lseek(fd, begin, os.SEEK_HOLE)
    if hole >= size:
        return 0
    data = os.lseek(fd, hole, os.SEEK_DATA)
    return -(-(data - begin) // RECORD_SIZE)


def _parse_header(path: Path, line: bytes) -> tuple[CallName, ...]:
    if not line.endswith(b"\n"):
        raise IophaseError(f"{path}: not a spool, or cut off inside its header: nothing to recover")
    try:
        header = json.loads(line)
        version = header["iophase_spool"]
        layout = (header["record_size"], header["layout"])
        calls = tuple(CallName(str(name), str(kind)) for name, kind in header["calls"])
    except (ValueError, KeyError, TypeError) as error:
        raise IophaseError(f"{path}: not a spool of iophase: delete it") from error
    if version != _FORMAT or layout != (RECORD_SIZE, layout_digest()):
        raise IophaseError(f"{path}: made by another version of iophase: read it with that version")
    return calls
