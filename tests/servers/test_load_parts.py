"""The load generator's arithmetic: latencies, arrivals, comparison."""

from __future__ import annotations

import collections
import itertools
import json

import numpy as np
import pytest

from servers.load_latency import Latencies
from servers.load_messages import WINDOWS, Messages
from servers.load_options import LoadOptions
from servers.load_schedule import due_times

SECOND = 1_000_000_000


def test_percentiles_are_those_of_numpy_within_half_a_bucket() -> None:
    values = np.random.default_rng(1).lognormal(11, 2, 100_003).astype(np.int64)
    latencies = Latencies()
    for part in np.array_split(values, 7):
        latencies.add(part.tolist())
    summary = latencies.summary()
    for name, q in {"p50": 50, "p90": 90, "p99": 99, "p99_9": 99.9}.items():
        exact = float(np.percentile(values, q, method="inverted_cdf"))
        assert summary[name] == pytest.approx(exact, rel=1 / 2048, abs=1)
    assert summary["max"] == values.max()
    assert summary["mean"] == values.sum() // len(values)


@pytest.mark.parametrize("thousands", [1, 2, 5])
def test_a_percentile_of_a_round_number_is_not_the_next_value(thousands: int) -> None:
    latencies = Latencies()
    latencies.add(([1000] * 999 + [9_000_000]) * thousands)
    summary = latencies.summary()
    assert [summary[name] for name in ("p99", "p99_9")] == [1000, 1000]
    assert summary["max"] == 9_000_000


def test_small_latencies_are_exact_and_huge_ones_fit() -> None:
    latencies = Latencies()
    latencies.add([0, 1, 2047, 1 << 53])
    assert latencies.counts[[0, 1, 2047]].tolist() == [1, 1, 1]
    assert latencies.summary()["max"] == 1 << 53
    assert Latencies().summary()["p50"] is None


def test_merged_latencies_are_those_of_one_histogram() -> None:
    values = np.random.default_rng(2).integers(0, SECOND, 10_000).tolist()
    whole, merged = Latencies(), Latencies()
    whole.add(values)
    for part in (values[:3000], values[3000:]):
        half = Latencies()
        half.add(part)
        merged.merge(json.loads(json.dumps(half.to_json())))
    assert merged.summary() == whole.summary()


def test_constant_arrivals_are_evenly_spaced_to_the_end() -> None:
    options = LoadOptions(rate=8000)
    times = np.fromiter(due_times(options, 7, 7 + 2 * SECOND), np.int64)
    assert len(times) == 16_000
    assert set(np.diff(times)) == {125_000}
    assert times[0] == 7


def test_poisson_arrivals_have_exponential_gaps() -> None:
    times = np.fromiter(
        due_times(LoadOptions(rate=50_000, arrivals="poisson"), 0, 2 * SECOND), np.int64
    )
    gaps = np.diff(times)
    assert len(times) == pytest.approx(100_000, rel=0.02)
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(20_000, rel=0.02)
    assert gaps.std() == pytest.approx(20_000, rel=0.02)


def test_bursts_keep_the_rate() -> None:
    times = list(due_times(LoadOptions(rate=1000, burst=50), 0, SECOND))
    assert len(times) == 1000
    assert [len(list(group)) for _, group in itertools.groupby(times)] == [50] * 20
    enormous = due_times(LoadOptions(rate=2_000_000, burst=1_000_000), 0, SECOND)
    assert collections.Counter(enormous) == {0: 1_000_000, SECOND // 2: 1_000_000}


@pytest.mark.parametrize("size", [1, 64, 4097])
def test_each_right_reply_is_found_right_and_each_wrong_byte_wrong(size: int) -> None:
    messages = Messages(size, b"_SB", seed=5)
    for window in range(0, WINDOWS, 20):
        messages.replies.append(bytes(messages.all[window].request).upper() + b"_SB")
        messages.windows.append(window)
    n = len(messages.replies)
    spoilt = bytearray(messages.replies[3])
    spoilt[size // 2] ^= 1
    messages.replies[3] = bytes(spoilt)
    messages.replies[4] = messages.replies[4][:-1] + b"C"
    assert messages.compare() == (n - 2, 2)
    assert messages.compare() == (0, 0)


def test_messages_differ_from_their_replies_and_their_neighbours() -> None:
    requests = [bytes(message.request) for message in Messages(64, b"", seed=1).all]
    assert len(set(requests)) == WINDOWS
    assert all(request != request.upper() for request in requests)
