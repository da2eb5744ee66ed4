"""How long data waited, by socket, as histograms: many at once, and without a loop over them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ("Histograms",)

Ints = NDArray[np.int64]

_STEPS = 4
"""Classes per factor of two: a quantile is exact to a factor of 1.19."""
_CLASSES = 64 * _STEPS


class Histograms:
    """Counts by socket and class of time; only classes with something in them take room."""

    def __init__(self) -> None:
        self._keys = np.empty(0, np.int64)
        """socket * _CLASSES + class, in ascending order."""
        self._counts = np.empty(0, np.int64)

    def add(self, sockets: Ints, waited_ns: Ints) -> None:
        """Count deliveries."""
        classes = (np.log2(np.maximum(waited_ns, 1)) * _STEPS).astype(np.int64)
        keys, counts = np.unique(
            sockets * _CLASSES + np.minimum(classes, _CLASSES - 1), return_counts=True
        )
        self._set(np.concatenate([self._keys, keys]), np.concatenate([self._counts, counts]))

    def join(self, sockets: Ints, into: int) -> None:
        """Count what was counted for these sockets for another one."""
        mine = np.isin(self._keys // _CLASSES, sockets)
        self._set(np.where(mine, into * _CLASSES + self._keys % _CLASSES, self._keys), self._counts)

    def _set(self, keys: Ints, counts: Ints) -> None:
        self._keys, place = np.unique(keys, return_inverse=True)
        self._counts = np.zeros(len(self._keys), np.int64)
        np.add.at(self._counts, place, counts)

    def quantile(self, share: float) -> dict[int, float]:
        """Return by socket the middle of the class that the quantile is in, in ns."""
        sockets, begins = np.unique(self._keys // _CLASSES, return_index=True)
        if not len(sockets):
            return {}
        whole = np.add.reduceat(self._counts, begins)
        before = np.cumsum(self._counts)[begins] - self._counts[begins]
        # the first class at which the running sum of all reaches what is wanted of this socket
        at = np.searchsorted(np.cumsum(self._counts), before + np.maximum(share * whole, 1))
        middles = 2.0 ** ((self._keys[at] % _CLASSES + 0.5) / _STEPS)
        return dict(zip(sockets.tolist(), middles.tolist(), strict=True))
