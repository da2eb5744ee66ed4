"""Verdicts as text within 100 columns, and as JSON."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from analysis.claims.claim import SOURCE, Claim, Figure, Outcome, Verdict
from analysis.tables import WIDTH, render

__all__ = ("claims_text", "verdicts_json", "verdicts_text")

_STYLES = {
    Outcome.HOLDS: "bold green",
    Outcome.DOES_NOT_HOLD: "bold red",
    Outcome.CANNOT_BE_TOLD: "bold yellow",
}
_NUMBERED = re.compile(r"(.+)\.(\d+)")
SCHEMA = 1


def verdicts_text(
    verdicts: Sequence[Verdict], output: Path, *, colour: bool = False, width: int = WIDTH
) -> str:
    """Return the verdicts one below the other; traces are named as they stand in ``output``."""
    parts: list[RenderableType] = []
    for verdict in verdicts:
        outcome = verdict.finding.outcome
        head = Text(f"{verdict.claim.name}: ", style="bold")
        parts += [head.append(outcome.value, _STYLES[outcome]), _evidence(verdict, output)]
    counts = Counter(verdict.finding.outcome for verdict in verdicts)
    tally = ", ".join(f"{counts[outcome]} {outcome.value}" for outcome in Outcome)
    source = f"The claims are those of {SOURCE['title']}, {SOURCE['url']}."
    return render([*parts, tally + ".", Text(source, style="dim")], colour=colour, width=width)


def claims_text(claims: Iterable[Claim], *, colour: bool = False, width: int = WIDTH) -> str:
    """Return the claims one below the other, with what each would mean in numbers."""
    parts: list[RenderableType] = []
    for claim in claims:
        parts += [
            Text(claim.name, style="bold"),
            _indented(_quoted(claim).append(claim.hypothesis)),
        ]
    return render(parts, colour=colour, width=width)


def _quoted(claim: Claim) -> Text:
    return Text().append(f"\u201c{claim.text}\u201d\n", "italic")


def _indented(text: Text) -> Padding:
    """Set a text below its heading, with an empty line after it."""
    return Padding(text, (0, 0, 1, 2))


def _evidence(verdict: Verdict, output: Path) -> Padding:
    text = _quoted(verdict.claim).append(verdict.finding.sentence)
    if verdict.finding.sure:
        text.append(f"\nHow sure: {verdict.finding.sure}.")
    if verdict.traces:
        names = _shortened([_shown(trace, output) for trace in verdict.traces])
        text.append(f"\nTraces: {', '.join(names)}", style="dim")
    return _indented(text)


def _shown(trace: Path, output: Path) -> str:
    return str(trace.relative_to(output)) if trace.is_relative_to(output) else str(trace)


def _shortened(names: Iterable[str]) -> list[str]:
    """Return the names, repetitions together: ``epoll-m1009.1-3`` are three."""
    numbers: dict[str, list[int]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        own = numbers.setdefault(match[1] if match else name, [])
        if match:
            own.append(int(match[2]))
    return [f"{name}{_numbers(own)}" for name, own in numbers.items()]


def _numbers(own: Sequence[int]) -> str:
    if not own:
        return ""
    return f".{min(own)}" if len(own) == 1 else f".{min(own)}-{max(own)}"


def verdicts_json(verdicts: Sequence[Verdict], host: dict[str, Any]) -> str:
    """Return the verdicts as a JSON document; a bound that is not known is null.

    ``host`` says where they were measured: kernel, arch, backend.
    """
    document = {
        "schema": SCHEMA,
        "source": SOURCE,
        "host": host,
        "claims": [_verdict(verdict) for verdict in verdicts],
    }
    return json.dumps(document, indent=1, ensure_ascii=False)


def _verdict(verdict: Verdict) -> dict[str, Any]:
    finding = verdict.finding
    return {
        "name": verdict.claim.name,
        "claim": verdict.claim.text,
        "hypothesis": verdict.claim.hypothesis,
        "verdict": finding.outcome.value,
        "sentence": finding.sentence,
        "sure": finding.sure or None,
        "figures": [_figure(figure) for figure in finding.figures],
        "traces": [str(trace) for trace in verdict.traces],
    }


def _figure(figure: Figure) -> dict[str, Any]:
    estimate = figure.estimate
    numbers = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    known = {key: value if math.isfinite(value) else None for key, value in numbers.items()}
    return {"name": figure.name, "unit": figure.unit or None, **known}
