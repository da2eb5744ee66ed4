"""The best and the worst of a column: which rows of a table are marked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from analysis.summary import partly_seen

__all__ = ("BEST", "ROWS_TO_RANK", "WORST", "marks")

BEST, WORST = "▲", "▼"

ROWS_TO_RANK = 3
"""Of two, one is better and the other worse without being marked."""


def marks(
    summary: pd.DataFrame, source: str, *, high_is_best: bool, text: Callable[[Any], str]
) -> dict[int, str]:
    """Return ``BEST`` and ``WORST`` by row for the column ``source`` of a summary.

    What is absent, below resolution, or of a server seen only in part does not compete. Rows that
    read the same, as ``text`` writes them, share a place, and a shared place is not marked.
    """
    short = summary["below_resolution"].map(lambda names: source in names)
    values = summary[source][~short & ~partly_seen(summary)].dropna().astype("float64")
    if len(values) < ROWS_TO_RANK:
        return {}
    rows, texts = values.index.to_list(), values.map(text)
    found: dict[int, str] = {}
    low, high = (WORST, BEST) if high_is_best else (BEST, WORST)
    for mark, place in ((low, int(values.argmin())), (high, int(values.argmax()))):
        if (texts == texts.iloc[place]).sum() == 1:
            found[rows[place]] = mark
    return found
