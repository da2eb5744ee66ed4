"""All claims, in the order of the article."""

from __future__ import annotations

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

__all__ = ("CLAIMS",)

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
