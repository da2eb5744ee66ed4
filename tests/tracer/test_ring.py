"""The ring reader and the drain, on a ring in a file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tracer.fake_ring import PAGE, FakeRing
from tracer.errors import IophaseError
from tracer.ring import Drain, Records, RingReader

RECORD_SIZE = 136
"""Not a divisor of the ring: records wrap around at every possible place."""


def record(number: int) -> bytes:
    return number.to_bytes(8, "little") * (RECORD_SIZE // 8)


def numbers(records: Records) -> list[int]:
    """Return the number of each record, after a check that it is whole."""
    words = records.view("<u8").reshape(-1, RECORD_SIZE // 8)
    assert (words == words[:, :1]).all()
    return [int(number) for number in words[:, 0]]


@pytest.fixture
def ring() -> Iterator[FakeRing]:
    fake = FakeRing(PAGE, RECORD_SIZE)
    yield fake
    fake.close()


@pytest.fixture
def reader(ring: FakeRing) -> Iterator[RingReader]:
    opened = RingReader(ring.fd, ring.size, RECORD_SIZE)
    yield opened
    opened.close()


def test_an_empty_ring_gives_no_records(reader: RingReader) -> None:
    assert len(reader.read()) == 0


def test_records_come_in_the_order_of_their_reservation(ring: FakeRing, reader: RingReader) -> None:
    first, second = ring.reserve(), ring.reserve()
    ring.submit(second, record(2))
    ring.submit(first, record(1))
    assert numbers(reader.read()) == [1, 2]
    assert len(reader.read()) == 0


def test_records_that_wrap_around_are_whole(ring: FakeRing, reader: RingReader) -> None:
    for number in range(5 * ring.size // RECORD_SIZE):
        ring.put(record(number))
        assert numbers(reader.read()) == [number]
    assert ring.produced > 4 * ring.size


def test_a_full_ring_is_read_whole(ring: FakeRing, reader: RingReader) -> None:
    for start in range(0, 1000, 100):
        count = ring.room
        for number in range(start, start + count):
            ring.put(record(number))
        assert ring.room == 0
        assert numbers(reader.read()) == list(range(start, start + count))


def test_reading_hands_the_space_back(ring: FakeRing, reader: RingReader) -> None:
    ring.put(record(1))
    assert reader.pending_bytes == ring.produced
    reader.read()
    assert reader.pending_bytes == 0
    assert ring.consumed == ring.produced


def test_reading_stops_at_a_record_that_is_not_submitted_yet(
    ring: FakeRing, reader: RingReader
) -> None:
    ring.put(record(1))
    busy = ring.reserve()
    ring.put(record(3))
    assert numbers(reader.read()) == [1]
    assert numbers(reader.read()) == []
    assert ring.consumed == busy
    ring.submit(busy, record(2))
    assert numbers(reader.read()) == [2, 3]


@pytest.mark.parametrize("discarded", [{0}, {2}, {4}, {0, 1}, {1, 3}, {0, 1, 2, 3, 4}])
def test_discarded_records_are_left_out(
    ring: FakeRing, reader: RingReader, discarded: set[int]
) -> None:
    for number in range(5):
        position = ring.reserve()
        if number in discarded:
            ring.discard(position)
        else:
            ring.submit(position, record(number))
    assert numbers(reader.read()) == sorted(set(range(5)) - discarded)
    assert ring.consumed == ring.produced


def test_a_discarded_record_behind_a_busy_one_is_left_out_later(
    ring: FakeRing, reader: RingReader
) -> None:
    busy = ring.reserve()
    ring.discard(ring.reserve())
    ring.put(record(3))
    assert numbers(reader.read()) == []
    ring.submit(busy, record(1))
    assert numbers(reader.read()) == [1, 3]


def test_records_are_copies(ring: FakeRing, reader: RingReader) -> None:
    ring.put(record(1))
    kept = reader.read()
    for _ in range(ring.size // RECORD_SIZE):
        ring.put(record(9))
        reader.read()
    assert numbers(kept) == [1]


def test_a_reader_that_comes_later_goes_on_where_the_first_one_stopped(ring: FakeRing) -> None:
    for number in (1, 2):
        reader = RingReader(ring.fd, ring.size, RECORD_SIZE)
        ring.put(record(number))
        assert numbers(reader.read()) == [number]
        reader.close()


@pytest.mark.parametrize("length", [RECORD_SIZE - 8, RECORD_SIZE + 8, 2 * RECORD_SIZE + 8])
def test_a_record_of_another_size_is_an_error(
    ring: FakeRing, reader: RingReader, length: int
) -> None:
    ring.put(bytes(length))
    with pytest.raises(IophaseError, match="wrong record size"):
        reader.read()


def test_a_descriptor_that_is_no_ring_is_an_error() -> None:
    read_end, write_end = os.pipe()
    try:
        with pytest.raises(IophaseError, match="cannot be mapped"):
            RingReader(read_end, PAGE, RECORD_SIZE)
    finally:
        os.close(read_end)
        os.close(write_end)


@pytest.mark.parametrize("size", [0, PAGE - 1, 3 * PAGE])
def test_a_size_that_no_ring_has_is_an_error(ring: FakeRing, size: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        RingReader(ring.fd, size, RECORD_SIZE)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["reserve", "submit", "discard", "read"]), max_size=300))
def test_every_submitted_record_is_read_once_and_in_order(steps: list[str]) -> None:
    ring = FakeRing(PAGE, RECORD_SIZE)
    reader = RingReader(ring.fd, ring.size, RECORD_SIZE)
    try:
        open_positions: list[tuple[int, int]] = []
        submitted: list[int] = []
        read: list[int] = []
        reserved = 0
        for index, step in enumerate([*steps, *["submit"] * len(steps), "read"]):
            if step == "reserve" and ring.room:
                reserved += 1
                open_positions.append((reserved, ring.reserve()))
            elif step in ("submit", "discard") and open_positions:
                number, position = open_positions.pop(index % len(open_positions))
                if step == "submit":
                    ring.submit(position, record(number))
                    submitted.append(number)
                else:
                    ring.discard(position)
            elif step == "read":
                read += numbers(reader.read())
        assert read == sorted(submitted)
    finally:
        reader.close()
        ring.close()


def test_the_drain_moves_everything_up_to_stop(ring: FakeRing, reader: RingReader) -> None:
    moved: list[int] = []
    drain = Drain(reader, lambda records: moved.extend(numbers(records)))
    drain.start()
    for number in range(500):
        while not ring.room:
            time.sleep(0.001)
        ring.put(record(number))
    drain.stop()
    assert moved == list(range(500))
    assert drain.taken == 500


def test_the_end_waits_for_a_record_that_is_being_submitted(ring: FakeRing) -> None:
    busy = ring.reserve()

    class SlowProducer(RingReader):
        passes = 0

        def read(self) -> Records:
            self.passes += 1
            if self.passes == 5:
                ring.submit(busy, record(1))
            return super().read()

    reader = SlowProducer(ring.fd, ring.size, RECORD_SIZE)
    moved: list[int] = []
    drain = Drain(reader, lambda records: moved.extend(numbers(records)))
    drain.stop()
    reader.close()
    assert moved == [1]


def test_a_record_that_is_never_submitted_does_not_hold_up_the_end(
    ring: FakeRing, reader: RingReader
) -> None:
    ring.reserve()
    drain = Drain(reader, lambda records: None)
    drain.start()
    begin = time.monotonic()
    drain.stop()
    assert time.monotonic() - begin < 5
    assert drain.taken == 0


def test_a_sink_that_fails_is_reported_at_once_and_the_ring_is_still_emptied(
    ring: FakeRing, reader: RingReader
) -> None:
    def full(records: Records) -> None:
        raise IophaseError("disk full")

    drain = Drain(reader, full)
    drain.start()
    for number in range(50):
        while not ring.room:
            time.sleep(0.001)
        ring.put(record(number))
    while drain.error is None:
        time.sleep(0.001)
    with pytest.raises(IophaseError, match="disk full"):
        drain.stop()
    assert drain.taken == 50
    assert ring.consumed == ring.produced


def test_a_drain_that_was_never_started_still_drains(ring: FakeRing, reader: RingReader) -> None:
    moved: list[Records] = []
    ring.put(record(7))
    drain = Drain(reader, moved.append)
    drain.stop()
    assert numbers(np.concatenate(moved)) == [7]
