"""Straight lines through measured points, with the errors of what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ("Crossing", "Line", "cross", "fit_line")

Floats = npt.NDArray[np.float64]

_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""97.5 % quantiles of Student's t for 1 to 30 degrees of freedom."""
_NORMAL95 = 1.960

DRAWS = 4000
"""Random lines drawn for the interval of a crossing."""
SEED = 20


def t95(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution."""
    return _T95[freedom - 1] if 1 <= freedom <= len(_T95) else _NORMAL95


@dataclass(frozen=True)
class Line:
    """y = intercept + slope x, with standard errors; errors are NaN below three points."""

    slope: float
    intercept: float
    slope_error: float
    intercept_error: float
    covariance: float
    points: int

    @property
    def slope_interval(self) -> tuple[float, float]:
        """Return the 95 % confidence interval of the slope."""
        reach = t95(self.points - 2) * self.slope_error
        return self.slope - reach, self.slope + reach

    @property
    def intercept_interval(self) -> tuple[float, float]:
        """Return the 95 % confidence interval of the intercept."""
        reach = t95(self.points - 2) * self.intercept_error
        return self.intercept - reach, self.intercept + reach

    @property
    def rises(self) -> bool | None:
        """Tell whether y grows with x beyond doubt: None when that cannot be told."""
        low, high = self.slope_interval
        if np.isnan(low):
            return None
        return True if low > 0 else False if high < 0 else None

    def at(self, x: float) -> float:
        """Return y at ``x``."""
        return self.intercept + self.slope * x


@dataclass(frozen=True)
class Crossing:
    """Where two lines cross, with its 95 % bounds; NaN where they do not cross right of zero."""

    x: float
    low: float
    high: float


def fit_line(
    x: Sequence[float] | Floats, y: Sequence[float] | Floats, *, relative: bool = True
) -> Line:
    """Fit a straight line by least squares.

    ``relative`` weighs each point by 1/y^2: costs that span decades are measured to about the same
    relative error, and unweighted the largest would decide alone. Raises ValueError for fewer than
    two different x. Formulas: Press et al., Numerical Recipes, 15.2, errors from the residuals.
    """
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(np.unique(xs)) < 2:
        raise ValueError("a line needs at least two different x")
    weights = 1 / np.square(ys) if relative and (ys > 0).all() else np.ones_like(ys)
    design = np.column_stack([np.ones_like(xs), xs])
    normal = np.linalg.inv(design.T @ (weights[:, np.newaxis] * design))
    intercept, slope = normal @ (design.T @ (weights * ys))
    freedom = len(xs) - 2
    if freedom < 1:
        return Line(float(slope), float(intercept), np.nan, np.nan, np.nan, len(xs))
    residuals = ys - intercept - slope * xs
    covariance = normal * float((weights * residuals**2).sum()) / freedom
    return Line(
        float(slope),
        float(intercept),
        float(np.sqrt(covariance[1, 1])),
        float(np.sqrt(covariance[0, 0])),
        float(covariance[0, 1]),
        len(xs),
    )


def cross(first: Line, second: Line) -> Crossing:
    """Return where two lines cross; the bounds come from lines drawn within the errors."""
    x = _meeting(*_coefficients(first), *_coefficients(second))
    generator = np.random.default_rng(SEED)
    drawn = _meeting(*_draw(first, generator), *_draw(second, generator))
    if np.isnan(drawn).mean() > 0.05:
        return Crossing(float(x), np.nan, np.nan)
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Crossing(float(x), float(low), float(high))


def _coefficients(line: Line) -> tuple[Floats, Floats]:
    return np.asarray(line.intercept), np.asarray(line.slope)


def _draw(line: Line, generator: np.random.Generator) -> tuple[Floats, Floats]:
    if np.isnan(line.slope_error):
        return np.full(DRAWS, np.nan), np.full(DRAWS, np.nan)
    covariance = [
        [line.intercept_error**2, line.covariance],
        [line.covariance, line.slope_error**2],
    ]
    drawn = generator.multivariate_normal([line.intercept, line.slope], covariance, DRAWS)
    return drawn[:, 0], drawn[:, 1]


def _meeting(intercept: Floats, slope: Floats, other: Floats, other_slope: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        x = (other - intercept) / (slope - other_slope)
    return np.where(np.isfinite(x) & (x >= 0), x, np.nan)
