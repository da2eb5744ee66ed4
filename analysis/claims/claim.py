"""A claim as a value: its words, its hypothesis, what it needs to be run, who judges it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from analysis.claims.estimate import Estimate
from analysis.claims.experiments import Experiment
from analysis.errors import TraceError
from analysis.load import Trace, load

__all__ = (
    "SEEN_FILE",
    "SOURCE",
    "CannotTell",
    "Claim",
    "Evidence",
    "Figure",
    "Finding",
    "Missing",
    "Outcome",
    "Verdict",
    "outcome_of",
)

SOURCE = {
    "title": "IO\u6a21\u578b\u4ecb\u7ecd (Introduction to I/O models)",
    "url": "https://www.cnblogs.com/zzw731862651/p/9038075.html",
}
"""The article that makes the claims."""

SEEN_FILE = "seen.json"
"""Beside a trace: what was seen of the traced process in /proc, or what a trial said of itself."""


class Outcome(StrEnum):
    """What a verdict can be."""

    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    CANNOT_BE_TOLD = "cannot be told"


def outcome_of(answer: bool | None) -> Outcome:
    """Return the outcome of a question that was answered yes, no, or not at all."""
    if answer is None:
        return Outcome.CANNOT_BE_TOLD
    return Outcome.HOLDS if answer else Outcome.DOES_NOT_HOLD


class CannotTell(Exception):  # noqa: N818 - a result, not an error
    """The experiment does not answer the question; the message says why, and what would."""


@dataclass(frozen=True)
class Figure:
    """A measured number; ``unit`` is empty for shares, ratios and counts.

    Its bounds are those of 95 %, or where every event was counted the least and the most.
    """

    name: str
    estimate: Estimate
    unit: str = ""


@dataclass(frozen=True)
class Finding:
    """What a judge found: the first figure decides. ``sure`` says how sure it is, and why."""

    outcome: Outcome
    sentence: str
    sure: str
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class Missing:
    """Why an experiment has no trace; ``failed``: this host could have made one."""

    reason: str
    failed: bool


@dataclass
class Evidence:
    """The traces of a claim's experiments, by the labels that the claim gives them.

    ``used`` collects the traces that the judge looked at.
    """

    directories: Mapping[str, Sequence[Path] | Missing]
    used: list[Trace] = field(default_factory=list)

    def __getitem__(self, label: str) -> list[Trace]:
        """Return the repetitions of an experiment, in order.

        Raises CannotTell when it has none, or when events were lost: counts would be wrong.
        """
        found = self.directories[label]
        if isinstance(found, Missing):
            raise CannotTell(found.reason)
        traces = []
        for directory in found:
            trace = next((one for one in self.used if one.path == directory), None)
            if trace is None:
                trace = load(directory)
                self.used.append(trace)
            if trace.lost:
                raise CannotTell(f"{trace.name} lost {trace.lost:,} events; run it again")
            traces.append(trace)
        return traces

    def seen(self, label: str) -> list[dict[str, Any]]:
        """Return what was seen beside each repetition. Raises CannotTell, TraceError."""
        return [_seen(trace.path / SEEN_FILE) for trace in self[label]]


def _seen(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TraceError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise TraceError(f"{path}: expected an object, found {type(content).__name__}")
    return content


@dataclass(frozen=True)
class Claim:
    """What the article says, and how it is put to the test.

    ``text`` is its statement in one English line; ``hypothesis`` what would be measured if it is
    right; ``experiments`` are run ``repetitions`` times, neighbours in time.
    """

    name: str
    text: str
    hypothesis: str
    experiments: Mapping[str, Experiment]
    judge: Callable[[Evidence], Finding]
    repetitions: int = 1


@dataclass(frozen=True)
class Verdict:
    """A claim, what was found, and the traces that back it; ``failed``: an experiment did."""

    claim: Claim
    finding: Finding
    traces: tuple[Path, ...]
    failed: bool = False
