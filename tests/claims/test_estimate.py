"""Estimates: the interval holds the truth, and what is beyond doubt is said, no more."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.claims.estimate import Estimate, all_of, mean, median, paired_ratio, share

TRIALS = 400
COVERED = 0.9
"""95 % are promised; of 400 trials fewer than 90 % would be a chance of 1 in 100,000."""


def covered(estimates: list[Estimate], truth: float) -> float:
    return sum(one.low <= truth <= one.high for one in estimates) / len(estimates)


def test_the_interval_of_a_mean_holds_the_truth() -> None:
    draws = np.random.default_rng(1).normal(7.0, 3.0, (TRIALS, 3))
    assert covered([mean(draw) for draw in draws], 7.0) >= COVERED


def test_the_interval_of_a_median_holds_the_truth_of_a_skewed_distribution() -> None:
    draws = np.random.default_rng(2).exponential(1.0, (TRIALS, 41))
    assert covered([median(draw) for draw in draws], math.log(2)) >= COVERED


def test_the_interval_of_a_share_holds_the_truth() -> None:
    hits = np.random.default_rng(3).binomial(50, 0.3, TRIALS)
    assert covered([share(int(n), 50) for n in hits], 0.3) >= COVERED


def test_what_the_runs_of_a_pair_have_in_common_cancels() -> None:
    generator = np.random.default_rng(4)
    busy = generator.uniform(1, 10, (TRIALS, 5))  # the machine, now idle, now busy
    noise = np.exp(generator.normal(0, 0.01, (TRIALS, 5)))
    ratios = [paired_ratio(1.3 * b * n, b) for b, n in zip(busy, noise, strict=True)]
    assert covered(ratios, 1.3) >= COVERED
    assert all(ratio.high - ratio.low < 0.2 for ratio in ratios)


def test_nothing_of_a_thousand_is_not_never() -> None:
    none = share(0, 1000)
    assert (none.value, none.low) == (0.0, 0.0)
    assert 0.003 < none.high < 0.004  # close to the rule of three


def test_too_few_repetitions_have_no_interval_and_decide_nothing() -> None:
    for estimate in (mean([1.0, 2.0]), paired_ratio([2.0, 2.0], [1.0, 1.0]), median([1.0] * 5)):
        assert math.isnan(estimate.low)
        assert estimate.at_least(0.0) is None
        assert estimate.at_most(100.0) is None


@pytest.mark.parametrize(
    ("bound", "at_least", "at_most"), [(1.0, True, False), (2.5, None, None), (4.0, False, True)]
)
def test_a_bound_inside_the_interval_cannot_be_told(
    bound: float, at_least: bool | None, at_most: bool | None
) -> None:
    estimate = Estimate(2.5, 2.0, 3.0)
    assert estimate.at_least(bound) is at_least
    assert estimate.at_most(bound) is at_most


def test_one_part_that_fails_decides_before_one_that_cannot_be_told() -> None:
    assert all_of(True, None, False) is False
    assert all_of(True, None) is None
    assert all_of(True, True) is True
