"""Less than everything: the records of one connection in N, chosen before they are written."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probes.layout import KINDS
from tracer.ring import Records

__all__ = ("Sampling",)

_MIXER = np.uint64(0x9E3779B97F4A7C15)
"""2^64 / golden ratio: neighbouring inode numbers, and times, fall into different classes."""


class Sampling:
    """Keep the calls and deliveries on one socket in ``one_in``, and as many of the other calls.

    Which ones is decided by the socket's inode number, and for calls on no socket, or on many, by
    the time when they began. Ledgers, names and addresses are all kept.
    """

    def __init__(self, one_in: int) -> None:
        self._one_in = np.uint64(one_in)
        self.left_out = 0

    def kept(self, records: Records) -> Records:
        """Return the records to keep; count the others."""
        key = np.where(records["socket"] > 0, records["socket"], records["ts"])
        chosen = self._classes(key) == 0
        rows = np.isin(records["kind"], (KINDS["CALL"], KINDS["DELIVERY"]))
        wanted = chosen | ~rows
        self.left_out += len(records) - int(np.count_nonzero(wanted))
        kept: Records = records[wanted]
        return kept

    def _classes(self, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
        mixed: NDArray[np.uint64] = (keys.astype(np.uint64) * _MIXER) >> np.uint64(32)
        return mixed % self._one_in
