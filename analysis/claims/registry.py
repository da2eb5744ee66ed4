"""All claims, in the order of the article."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from analysis.claims import (
    asynchronous,
    blocking,
    crowds,
    descriptors,
    epoll,
    multiplexing,
    nonblocking,
)
from analysis.claims.claim import Claim
from analysis.claims.experiments import Experiment

__all__ = ("CLAIMS", "choose", "order")

CLAIMS: tuple[Claim, ...] = (
    *blocking.CLAIMS,
    *crowds.CLAIMS[:3],
    *nonblocking.CLAIMS,
    *multiplexing.CLAIMS[:2],
    *crowds.CLAIMS[3:],
    *descriptors.CLAIMS,
    *epoll.CLAIMS,
    *multiplexing.CLAIMS[2:],
    *asynchronous.CLAIMS,
)


_SUGGESTIONS = 3
_ALIKE = 0.4
"""How alike a suggestion is to what was typed, at the least: names are long, and half of one will
do."""


def choose(names: Sequence[str]) -> list[Claim]:
    """Return the claims of these names in the order of the article, all if there are no names.

    Raises ValueError for an unknown one; the message suggests those that come close.
    """
    known = {claim.name: claim for claim in CLAIMS}
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, _SUGGESTIONS, _ALIKE)
            advice = f", but {' or '.join(close)}" if close else ""
            raise ValueError(f"no claim '{name}'{advice}")
    return [claim for claim in CLAIMS if not names or claim.name in names]


def order(claims: Sequence[Claim]) -> list[tuple[Experiment, int]]:
    """Return what is to be run: each experiment with the number of its repetition, once.

    The experiments of a claim take turns, so that its repetitions are neighbours in time.
    """
    found: dict[tuple[Experiment, int], None] = {}
    for claim in claims:
        for repetition in range(1, claim.repetitions + 1):
            found |= {(one, repetition): None for one in claim.experiments.values()}
    return list(found)
