"""``iophase report``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from tracer import progress
from tracer.errors import IophaseError
from tracer.terminal import coloured

__all__ = ("Report",)


class Report:
    """Print the tables of traces, or write one page with figures.

    Wait versus copy, what a request cost, and how long data waited. A directory that holds traces
    stands for all of them. A trace that was cut short, by a crash or a full disk, is first
    completed from what was saved of it. Root is not needed.

    Examples:
      iophase report traces/record               one trace: of a real program with its models,
                                                 its connections, and a verdict in words
      iophase report traces                      all traces in a directory, side by side
      iophase report traces --json               the same numbers for a program
      iophase report traces --html report.html   one page with figures, to send to a colleague
    """

    def prepare_parser(self, parser: ArgumentParser) -> None:
        """Add the directories and the form of the output."""
        add = parser.add_argument
        add("directories", metavar="DIR", nargs="+", type=Path, help="a trace, or several in one")
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", help="print one JSON object instead")
        form.add_argument("--html", type=Path, metavar="FILE", help="write a self-contained page")
        add("--force", action="store_true", help="replace FILE if it is there")

    def run(self, args: Namespace) -> int:
        """Complete what was cut short, then report."""
        from tracer.cutshort import complete

        complete(args.directories)
        from analysis.errors import TraceError

        try:
            if args.html is not None:
                _write_page(args.directories, args.html, args.force)
            else:
                _print_report(args.directories, args.json)
        except TraceError as error:
            raise IophaseError(str(error)) from error
        return 0


def _families() -> dict[str, str]:
    from servers.models import MODELS

    return {model.name: model.family for model in MODELS}


def _print_report(directories: list[Path], as_json: bool) -> None:
    from analysis.recording import recording_text
    from analysis.report import report_json, report_text

    if as_json:
        with progress.working("reading"):
            text = report_json(directories, families=_families())
        print(text)
        return
    colour = coloured()
    with progress.working("reading"):
        text = report_text(directories, families=_families(), colour=colour)
    print(text.rstrip("\n"))
    if len(directories) == 1 and (text := recording_text(directories[0], colour=colour)):
        print(f"\n{text.rstrip()}")


def _write_page(directories: list[Path], file: Path, force: bool) -> None:
    from analysis.html import write_html
    from tracer.privileges import give_to_owner

    with progress.working("writing the page"):
        write_html(directories, file, families=_families(), force=force)
    give_to_owner(file)
    print(f"page: {file}")
