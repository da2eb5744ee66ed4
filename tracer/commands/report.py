"""``iophase report``."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from tracer.errors import IophaseError

__all__ = ("Report",)


class Report:
    """Print the tables of traces: wait versus copy, what a request cost, and how data waited.

    A directory that holds traces stands for all of them. A trace that was cut short, by a crash or
    a full disk, is first completed from what was saved of it. Root is not needed.

    Examples:
      iophase report traces/epoll                one trace
      iophase report traces                      all traces in a directory, side by side
      iophase report traces --json               the same numbers for a program
    """

    def prepare_parser(self, parser: ArgumentParser) -> None:
        """Add the directories and the form of the output."""
        parser.add_argument("directories", metavar="DIR", nargs="+", type=Path, help="a trace")
        parser.add_argument("--json", action="store_true", help="print one JSON object instead")

    def run(self, args: Namespace) -> int:
        """Complete what was cut short, then print the report."""
        _complete(args.directories)
        from analysis.errors import TraceError
        from analysis.report import report_json, report_text
        from servers.models import MODELS

        families = {model.name: model.family for model in MODELS}
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        try:
            if args.json:
                print(report_json(args.directories, families=families))
            else:
                text = report_text(args.directories, families=families, colour=colour)
                print(text.rstrip("\n"))
        except TraceError as error:
            raise IophaseError(str(error)) from error
        return 0


def _complete(directories: Sequence[Path]) -> None:
    from tracer.tracedir import recover

    for path in _cut_short(directories):
        try:
            recover(path)
        except IophaseError as error:
            if not (path / "trace.json").exists():
                raise
            # A new recording into the same directory; the complete one before it can be read.
            print(f"iophase: {error}; reporting the earlier trace", file=sys.stderr)
        else:
            print(f"iophase: {path}: was cut short; completed from its records", file=sys.stderr)


def _cut_short(directories: Sequence[Path]) -> Iterator[Path]:
    from tracer.tracedir import is_cut_short

    for path in directories:
        if is_cut_short(path):
            yield path
        elif not (path / "trace.json").exists() and path.is_dir():
            yield from (entry for entry in sorted(path.iterdir()) if is_cut_short(entry))
