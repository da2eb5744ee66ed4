"""``iophase lab``."""

from __future__ import annotations

import sys
from argparse import REMAINDER, ArgumentParser, Namespace
from pathlib import Path

from tracer.errors import USAGE, IophaseError

__all__ = ("Lab",)

DEFAULT_TIMEOUT_S = 1800.0
"""Emulated, the whole suite of live tests takes a fraction of it on an idle machine."""


class Lab:
    """Run the same command inside a stock Debian kernel, booted in QEMU on this file system.

    Needs neither root nor hardware virtualisation: there the command is root, and every backend
    can attach. The kernel is downloaded once, from the mirror in this machine's apt sources. What
    the command writes into the current directory (or --output) is kept; all else is thrown away.
    Its output, its exit code and its files are the guest's; absolute times there are those of an
    emulated processor, so compare them with one another only.

    Examples:
      iophase lab 6.1 -- run --all           the servers and probes on Debian 12's kernel
      iophase lab 7.3 -- doctor              what can be measured there
      iophase lab --exec 5.10 -- uname -a    any other program
    """

    def prepare_parser(self, parser: ArgumentParser) -> None:
        """Add the kernel, the command and the options."""
        from tracer.supported_kernels import KERNELS

        known = ", ".join(kernel.series for kernel in KERNELS)
        parser.usage = "%(prog)s [-h] [--exec] [--output DIR] [--timeout S] KERNEL -- ARGS..."
        parser.add_argument("kernel", metavar="KERNEL", help=f"one of {known}")
        parser.add_argument("args", metavar="ARGS", nargs=REMAINDER, help="a verb of iophase")
        parser.add_argument(
            "--exec", action="store_true", help="ARGS is a program with its arguments, not a verb"
        )
        parser.add_argument(
            "--output",
            metavar="DIR",
            type=Path,
            help="the one directory whose changes are kept (default: the current one)",
        )
        parser.add_argument(
            "--timeout",
            metavar="S",
            type=float,
            default=DEFAULT_TIMEOUT_S,
            help=f"end the guest after so many seconds (default: {DEFAULT_TIMEOUT_S:.0f})",
        )

    def run(self, args: Namespace) -> int:
        """Return the exit code of the command in the guest."""
        from tracer.lab import run_in_lab

        command = args.args[1:] if args.args[:1] == ["--"] else args.args
        if not command:
            raise IophaseError("nothing to run in the lab: iophase lab KERNEL -- ARGS...", USAGE)
        if command[0].startswith("-"):
            raise IophaseError(f"options of lab come before the kernel: {command[0]}", USAGE)
        if not 0 < args.timeout < float("inf"):
            raise IophaseError(
                f"--timeout {args.timeout:g}: give a number of seconds above 0", USAGE
            )
        if not args.exec:
            command = [sys.executable, "-m", "tracer", *command]
        result = run_in_lab(args.kernel, command, output=args.output, timeout_s=args.timeout)
        return result.exit_code
