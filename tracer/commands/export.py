"""``iophase export``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from tracer.errors import IophaseError

__all__ = ("Export",)


class Export:
    """Write a trace for another tool: Parquet, or Perfetto.

    Both hold the same rows as the trace's CSV files. Without a FORMAT it is Parquet. The output is
    DIR.parquet, a directory with a file per table, or DIR.pftrace, for ui.perfetto.dev.

    Examples:
      iophase export traces/epoll                      Parquet, in traces/epoll.parquet
      iophase export traces/epoll --perfetto           a timeline, in traces/epoll.pftrace
      iophase export traces/epoll -o /tmp/epoll        Parquet, elsewhere
    """

    def prepare_parser(self, parser: ArgumentParser) -> None:
        """Add the trace, the format and the output."""
        add = parser.add_argument
        add("directory", metavar="DIR", type=Path, help="a trace")
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--parquet", action="store_true", help="Parquet (the default)")
        form.add_argument("--perfetto", action="store_true", help="a Perfetto trace")
        add("-o", "--output", type=Path, metavar="PATH", help="where (default: beside the trace)")
        add("--force", action="store_true", help="replace what is there")

    def run(self, args: Namespace) -> int:
        """Complete the trace if it was cut short, then write the export."""
        from tracer.cutshort import complete

        complete([args.directory])
        from analysis.errors import TraceError
        from analysis.parquet import export_parquet
        from analysis.perfetto import export_perfetto
        from tracer import progress
        from tracer.privileges import give_to_owner

        export, suffix = (
            (export_perfetto, ".pftrace") if args.perfetto else (export_parquet, ".parquet")
        )
        trace = args.directory.absolute()
        output = args.output or trace.parent / (trace.name + suffix)
        try:
            with progress.working(f"exporting {args.directory}"):
                rows = export(args.directory, output, force=args.force)
        except TraceError as error:
            raise IophaseError(str(error)) from error
        give_to_owner(output)
        print(f"{output}: " + ", ".join(f"{count} {name}" for name, count in rows.items()))
        return 0
