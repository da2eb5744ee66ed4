"""Numbers with their uncertainty, and what can be said of them beyond doubt.

All intervals are of 95 %. Repetitions are few: Student's t is used for them, because a bootstrap of
three to five units is too narrow (Efron and Tibshirani, An Introduction to the Bootstrap, 13.7).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.bootstrap import MIN_UNITS
from analysis.fit import Line, t95

__all__ = ("Estimate", "all_of", "counted", "mean", "median", "paired_ratio", "share", "slope")

Floats = npt.NDArray[np.float64]

_NORMAL95 = 1.960
_LEAST_FOR_MEDIAN = 6
"""Below, even the smallest and the largest value do not enclose the median with 95 %."""


@dataclass(frozen=True)
class Estimate:
    """A value and its bounds; the bounds are NaN where nothing is known of them."""

    value: float
    low: float
    high: float

    def at_least(self, bound: float) -> bool | None:
        """Tell whether the true value reaches ``bound``; None if that cannot be told."""
        return True if self.low >= bound else False if self.high < bound else None

    def at_most(self, bound: float) -> bool | None:
        """Tell whether the true value stays within ``bound``; None if that cannot be told."""
        return True if self.high <= bound else False if self.low > bound else None

    def scaled(self, factor: float) -> Estimate:
        """Return it in another unit."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


def all_of(*answers: bool | None) -> bool | None:
    """Return whether all hold: one that does not decides, else one that cannot be told."""
    if any(answer is False for answer in answers):
        return False
    return None if any(answer is None for answer in answers) else True


def counted(values: Sequence[float]) -> Estimate:
    """Return what repetitions counted: their mean, the smallest and the largest."""
    return Estimate(float(np.mean(values)), float(min(values)), float(max(values)))


def share(hits: int, of: int) -> Estimate:
    """Return the share ``hits / of`` with Wilson's score interval (JASA 22, 1927, p. 209)."""
    if of == 0:
        return Estimate(math.nan, math.nan, math.nan)
    part, square = hits / of, _NORMAL95**2
    middle = (part + square / (2 * of)) / (1 + square / of)
    reach = _NORMAL95 / (1 + square / of)
    reach *= math.sqrt(part * (1 - part) / of + square / (4 * of * of))
    low = 0.0 if hits == 0 else middle - reach
    return Estimate(part, low, 1.0 if hits == of else middle + reach)


def median(values: Iterable[float] | Floats) -> Estimate:
    """Return the median; its bounds are order statistics, whatever the distribution is.

    Conover, Practical Nonparametric Statistics, 3.2, with the normal approximation.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    count = len(ordered)
    if count == 0:
        return Estimate(math.nan, math.nan, math.nan)
    middle = float(np.median(ordered))
    if count < _LEAST_FOR_MEDIAN:
        return Estimate(middle, math.nan, math.nan)
    reach = _NORMAL95 * math.sqrt(count) / 2
    low, high = math.floor(count / 2 - reach), math.ceil(count / 2 + reach)
    return Estimate(middle, float(ordered[max(low, 0)]), float(ordered[min(high, count - 1)]))


def mean(values: Sequence[float] | Floats) -> Estimate:
    """Return the mean of repetitions with Student's interval; no bounds below three."""
    drawn = np.asarray(values, dtype=float)
    middle = float(drawn.mean()) if len(drawn) else math.nan
    if len(drawn) < MIN_UNITS:
        return Estimate(middle, math.nan, math.nan)
    reach = t95(len(drawn) - 1) * float(drawn.std(ddof=1)) / math.sqrt(len(drawn))
    return Estimate(middle, middle - reach, middle + reach)


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> Estimate:
    """Return the ratio of two quantities measured in pairs of neighbouring runs.

    Geometric mean and Student's interval of the logarithms: what both runs of a pair had in common,
    such as a busy machine, cancels.
    """
    pairs = [(a, b) for a, b in zip(above, below, strict=False) if a > 0 and b > 0]
    logarithms = mean([math.log(a / b) for a, b in pairs])
    return Estimate(math.exp(logarithms.value), math.exp(logarithms.low), math.exp(logarithms.high))


def slope(line: Line) -> Estimate:
    """Return the slope of a fitted line."""
    low, high = line.slope_interval
    return Estimate(line.slope, float(low), float(high))
