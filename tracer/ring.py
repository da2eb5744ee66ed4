"""Reads the BPF ring buffer through its memory map: whole batches as numpy arrays, no callback.

The map of a ring buffer (Linux, ``Documentation/bpf/ringbuf.rst``) is: the consumer's page, which
user space writes; the producer's page; and the data, mapped twice in a row, so that a record that
wraps around is contiguous. Every record here has one size, so the data is one strided array.

The order of loads and stores is that of x86, where loads are not reordered with loads, nor stores
with older loads.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer.errors import IophaseError

__all__ = ("DRAIN_INTERVAL_S", "Drain", "Records", "RingReader")

Records = NDArray[np.void]
"""Whole records, one item each; view it with a dtype of ``probes.layout``."""

BUSY = np.uint32(1 << 31)
DISCARDED = np.uint32(1 << 30)
"""``BPF_RINGBUF_BUSY_BIT`` and ``BPF_RINGBUF_DISCARD_BIT`` of a record's length."""

_HEADER_BYTES = 8
"""``BPF_RINGBUF_HDR_SZ``: a record's length and its page offset, 32 bits each."""

DRAIN_INTERVAL_S = 0.010
"""Pause between two passes: without wake-ups a traced call costs 0.2 µs instead of 15, a pass costs
some µs, and a ring of 16 MiB takes 116,000 records in between, that is 11 million per second."""

_LAST_PASSES = 100
_LAST_PASS_INTERVAL_S = 0.001
"""At the end a producer may still be between its reserve and submit, which takes less than a µs
unless its virtual CPU is stopped; 0.1 s is far more than that, and keeps ``stop`` bounded."""


class RingReader:
    """Take complete records of ``record_size`` bytes out of a ring buffer of ``size_bytes``.

    Raises IophaseError when the map cannot be mapped, or holds a record of another size.
    """

    def __init__(self, map_fd: int, size_bytes: int, record_size: int) -> None:
        page = mmap.PAGESIZE
        if size_bytes < page or size_bytes & (size_bytes - 1):
            raise ValueError(f"a ring of {size_bytes} bytes: not a power of two of whole pages")
        if record_size % 8:
            raise ValueError(f"a record of {record_size} bytes: not a multiple of 8")
        try:
            self._consumer_page = mmap.mmap(map_fd, page)
            self._data = mmap.mmap(map_fd, page + 2 * size_bytes, prot=mmap.PROT_READ, offset=page)
        except OSError as error:
            raise IophaseError(f"ring buffer: cannot be mapped: {error.strerror}") from error
        self._record_size = record_size
        self._mask = size_bytes - 1
        self._slot = np.dtype(
            [("length", "<u4"), ("page_offset", "<u4"), ("record", f"V{record_size}")]
        )
        self._consumer: NDArray[np.uint64] | None = np.frombuffer(self._consumer_page, np.uint64, 1)
        self._producer: NDArray[np.uint64] | None = np.frombuffer(self._data, np.uint64, 1)
        self._position = int(self._consumer[0])

    @property
    def pending_bytes(self) -> int:
        """Bytes that producers have reserved and nobody has read yet."""
        return 0 if self._producer is None else int(self._producer[0]) - self._position

    def read(self) -> Records:
        """Return a copy of all complete records, oldest first, and hand their space back.

        Ends before a record that its producer has not submitted yet; leaves discarded ones out.
        """
        count, rest = divmod(self.pending_bytes, self._slot.itemsize)
        if rest:
            raise IophaseError(
                f"ring buffer: {rest} bytes are not a whole record: wrong record size"
            )
        first = mmap.PAGESIZE + (self._position & self._mask)
        slots: NDArray[Any] = np.ndarray((count,), self._slot, buffer=self._data, offset=first)
        length = slots["length"].copy()  # once: a producer may submit between two looks
        odd = np.flatnonzero(length != self._record_size)
        if odd.size:
            busy = odd[(length[odd] & BUSY) != 0]
            if busy.size:
                count = int(busy[0])
                odd = odd[odd < count]
            if np.any(length[odd] != (DISCARDED | np.uint32(self._record_size))):
                raise IophaseError("ring buffer: a record of another size: wrong record size")
        records: Records = slots["record"][:count]
        records = np.delete(records, odd) if odd.size else records.copy()
        self._position += count * self._slot.itemsize
        if count and self._consumer is not None:
            self._consumer[0] = self._position
        return records

    def close(self) -> None:
        """Unmap the ring buffer; the map's descriptor stays the caller's."""
        self._consumer = self._producer = None
        self._consumer_page.close()
        self._data.close()


class Drain:
    """Move records from a ring buffer to ``sink`` in a thread, until ``stop``.

    ``taken`` counts the records that left the ring. An error of the sink (a full disk) is kept in
    ``error``, for the session to look at, and raised by ``stop``; the thread goes on emptying the
    ring, so that taken - kept by the sink says how many records were lost on this side.
    """

    def __init__(self, ring: RingReader, sink: Callable[[Records], object]) -> None:
        self._ring = ring
        self._sink = sink
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drain", daemon=True)
        self._unreadable = False
        self.error: Exception | None = None
        self.taken = 0

    def start(self) -> None:
        """Begin to drain."""
        self._thread.start()

    def stop(self) -> None:
        """Drain what is left, end the thread, and raise what went wrong in it.

        Detach the probes first: what they submit later stays in the ring.
        """
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        for _ in range(_LAST_PASSES):
            self._pass()
            if self._unreadable or not self._ring.pending_bytes:
                break
            time.sleep(_LAST_PASS_INTERVAL_S)
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        while not self._unreadable and not self._stopping.wait(DRAIN_INTERVAL_S):
            self._pass()

    def _pass(self) -> None:
        if self._unreadable:
            return
        try:
            records = self._ring.read()
        except IophaseError as error:
            self._unreadable = True
            self.error = self.error or error
            return
        self.taken += len(records)
        if len(records) and self.error is None:
            try:
                self._sink(records)
            except Exception as error:  # any: it belongs to the session, not to this thread
                self.error = error
