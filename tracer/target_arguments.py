"""The arguments that say whom to trace, and what of it: the same for every verb that traces."""

from __future__ import annotations

import argparse
import math
from argparse import ArgumentParser

__all__ = ("add_narrowing", "add_targets", "seconds")


def add_targets(parser: ArgumentParser) -> None:
    """Add what names processes; several conditions narrow each other down."""
    add = parser.add_argument_group("whom to trace").add_argument
    add("-p", "--pid", metavar="PID", help="this process (several: 12,34)")
    add("--comm", metavar="NAME", help="every process of this name")
    add("--port", type=int, metavar="N", help="who listens on this TCP or UDP port")
    add("--cgroup", metavar="PATH",
        help="every process in this cgroup; or a systemd unit, or a container's id")  # fmt: skip
    add("--wait", action="store_true", help="wait for them, and for others after their end")


def add_narrowing(parser: ArgumentParser) -> None:
    """Add what narrows a recording down."""
    add = parser.add_argument_group("only a part of their calls").add_argument
    add("-t", "--tid", metavar="TID", help="of this thread (several: 12,34)")
    add("--fd", metavar="FD", help="on this descriptor (several: 5,6)")
    add("--peer", metavar="ADDRESS", action="append", default=[],
        help="on connections with this address or network, or ADDRESS:PORT")  # fmt: skip


def seconds(text: str) -> float:
    """Return a duration in seconds; raise ``ArgumentTypeError`` for what is none."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: not a number of seconds")
    return value
