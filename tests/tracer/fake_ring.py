"""A ring buffer in a file, laid out like the kernel's, for what a live one does not do to order."""

from __future__ import annotations

import mmap
import os
import struct

PAGE = mmap.PAGESIZE
HEADER = 8
BUSY = 1 << 31
DISCARDED = 1 << 30


class FakeRing:
    """A producer: ``reserve`` a record, then ``submit`` or ``discard`` it."""

    def __init__(self, size: int, record_size: int) -> None:
        self.size = size
        self.record_size = record_size
        self.fd = os.memfd_create("ring")
        self.produced = 0
        os.ftruncate(self.fd, 2 * PAGE + 2 * size)

    def close(self) -> None:
        os.close(self.fd)

    @property
    def consumed(self) -> int:
        return int(struct.unpack("<Q", os.pread(self.fd, 8, 0))[0])

    @property
    def room(self) -> int:
        """How many more records fit."""
        return (self.size - (self.produced - self.consumed)) // (HEADER + self.record_size)

    def _write(self, position: int, data: bytes) -> None:
        """Write into the data, which the kernel maps twice and this file holds twice."""
        start = position % self.size
        for offset in (start - self.size, start, start + self.size):
            low, high = max(offset, 0), min(offset + len(data), 2 * self.size)
            if low < high:
                os.pwrite(self.fd, data[low - offset : high - offset], 2 * PAGE + low)

    def reserve(self, length: int | None = None) -> int:
        position = self.produced
        length = self.record_size if length is None else length
        self._write(position, struct.pack("<II", length | BUSY, 0))
        self.produced += HEADER + length
        os.pwrite(self.fd, struct.pack("<Q", self.produced), PAGE)
        return position

    def submit(self, position: int, record: bytes) -> None:
        self._write(position + HEADER, record)
        self._write(position, struct.pack("<I", len(record)))

    def discard(self, position: int) -> None:
        self._write(position, struct.pack("<I", self.record_size | DISCARDED))

    def put(self, record: bytes) -> None:
        self.submit(self.reserve(len(record)), record)
