"""Numbers as people read them: three digits and a unit."""

from __future__ import annotations

import math

__all__ = (
    "ABSENT",
    "bytes_text",
    "count_text",
    "number_text",
    "share_text",
    "sizes_text",
    "time_text",
)

ABSENT = "-"
"""What stands for a figure that this trace cannot give."""

_TIME_UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "us"))
_BINARY_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_SMALLEST_SHARE = 0.0005
"""Shares are printed to a tenth of a per cent; what is smaller but there is printed as ``<0.1``."""


def _three_digits(value: float) -> str:
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def time_text(nanoseconds: float | None) -> str:
    """Return a time of three digits with its unit, ``12.3 us``."""
    if nanoseconds is None or math.isnan(nanoseconds):
        return ABSENT
    for size, unit in _TIME_UNITS:
        if abs(nanoseconds) >= size * 0.9995:
            return f"{_three_digits(nanoseconds / size)} {unit}"
    return "<1 ns" if 0 < nanoseconds < 0.5 else f"{nanoseconds:.0f} ns"


def share_text(share: float | None) -> str:
    """Return a share in per cent without the sign: ``0`` is nothing, ``<0.1`` is something."""
    if share is None or math.isnan(share):
        return ABSENT
    if share == 0:
        return "0"
    return "<0.1" if 0 < share < _SMALLEST_SHARE else f"{share * 100:.1f}"


def bytes_text(count: float | None) -> str:
    """Return an amount of data in binary units, ``12.3 MiB``."""
    if count is None or math.isnan(count):
        return ABSENT
    for size, unit in _BINARY_UNITS:
        if count >= size:
            return f"{_three_digits(count / size)} {unit}"
    return f"{count:.0f} B"


def count_text(count: float | None) -> str:
    """Return a whole number with its thousands set off, ``58,712``."""
    if count is None or math.isnan(count):
        return ABSENT
    return f"{count:,.0f}"


def sizes_text(size: int | list[int]) -> str:
    """Return the size of messages, or their sizes, as ``iophase load --size`` takes them."""
    return ",".join(map(str, size)) if isinstance(size, list) else str(size)


def number_text(value: float | None) -> str:
    """Return a number of three digits, ``2.03``."""
    if value is None or math.isnan(value):
        return ABSENT
    return _three_digits(value)
