"""Bootstrap confidence intervals of ratios of sums, over independent repetitions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ("CONFIDENCE", "MIN_UNITS", "ratio_intervals", "resampling_weights")

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 2000
"""Enough for the 2.5 % and 97.5 % quantiles to be stable to a few per cent of the width."""
SEED = 20
"""Fixed, so that a report printed twice is the same report."""
MIN_UNITS = 3
"""Below three repetitions a spread says next to nothing: no interval is given."""


def resampling_weights(units: int, *, seed: int = SEED) -> Floats:
    """Return how often each of ``units`` is drawn in each resample, shape (RESAMPLES, units)."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(units, np.full(units, 1 / units), size=RESAMPLES).astype(float)


def ratio_intervals(
    numerators: Floats, denominators: Floats, weights: Floats | None = None
) -> tuple[Floats, Floats]:
    """Return the lower and upper bounds of sum(numerators) / sum(denominators).

    ``numerators`` has shape (units, ratios), ``denominators`` (units,) or (units, ratios).
    Percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 13.3), units
    resampled together; NaN below ``MIN_UNITS`` units, or where a ratio is never defined.
    """
    units, ratios = numerators.shape
    if units < MIN_UNITS:
        return np.full(ratios, np.nan), np.full(ratios, np.nan)
    drawn = resampling_weights(units) if weights is None else weights
    below = drawn @ denominators
    if below.ndim == 1:
        below = below[:, np.newaxis]
    with np.errstate(divide="ignore", invalid="ignore"):
        values = (drawn @ numerators) / below
    values[~np.isfinite(values)] = np.nan
    tail = (1 - CONFIDENCE) / 2 * 100
    low, high = np.full(ratios, np.nan), np.full(ratios, np.nan)
    defined = ~np.isnan(values).all(axis=0)
    low[defined], high[defined] = np.nanpercentile(values[:, defined], [tail, 100 - tail], axis=0)
    return low, high
