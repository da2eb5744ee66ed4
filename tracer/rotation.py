"""A recording of bounded size: the oldest records are given up as new ones come.

The spool stays one file; what is given up becomes a hole in it (fallocate(2), PUNCH_HOLE), so that
nothing is ever moved. What names threads and sockets, and the ledgers, is written anew.
"""

from __future__ import annotations

import ctypes
import os

import numpy as np

from probes.layout import CALL, KINDS, RECORD_SIZE
from tracer.errors import IophaseError
from tracer.spool import SpoolWriter

__all__ = ("LEAST_BYTES", "Rotation")

_PIECE = RECORD_SIZE << 16
"""Bytes that are given up at one time: a few milliseconds of work."""
LEAST_BYTES = 4 * _PIECE
"""Less would be filled before it could be looked at."""
_KEEP_SIZE = 1
_PUNCH_HOLE = 2


class Rotation:
    """Keeps the newest ``limit`` bytes of a spool."""

    def __init__(self, spool: SpoolWriter, limit: int) -> None:
        self._spool = spool
        self._limit = limit
        self._begin = self._punched = spool.size
        self.left_out = 0
        """Records of calls and deliveries that were given up."""

    def look(self) -> None:
        """Give up the oldest records when there are too many."""
        while self._spool.size - self._punched > self._limit:
            end = self._punched + _PIECE
            with self._spool.path.open("rb") as file:
                content = os.pread(file.fileno(), _PIECE, self._punched)
            records = np.frombuffer(content, CALL)
            rows = np.isin(records["kind"], (KINDS["CALL"], KINDS["DELIVERY"]))
            self.left_out += int(np.count_nonzero(rows))
            self._spool.append(records[~rows])
            _punch(self._spool, self._begin, end - self._begin)
            self._punched = end


def _punch(spool: SpoolWriter, offset: int, length: int) -> None:
    """Make a hole of all whole pages in a range."""
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (_PUNCH_HOLE | _KEEP_SIZE, ctypes.c_int64(offset), ctypes.c_int64(length))
    if libc.fallocate(spool.fileno(), *arguments):
        reason = os.strerror(ctypes.get_errno())
        raise IophaseError(
            f"{spool.path}: cannot be rotated on this file system: {reason};"
            " use --summary, or another directory"
        )
