"""``iophase doctor``."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from tracer.errors import FAILED
from tracer.version import __version__

if TYPE_CHECKING:
    from tracer.host import Check, Host

__all__ = ("Doctor",)

_COLOURS = {"ok": "\033[32m", "limited": "\033[33m", "missing": "\033[31m"}


class Doctor:
    """Say what can be measured on this host, and what is missing and why.

    Looks only: nothing is attached, mounted or changed. Exits with 1 when nothing can be traced.

    Examples:
      sudo iophase doctor          everything, as root sees it
      iophase doctor --json        the same for a program
    """

    def prepare_parser(self, parser: ArgumentParser) -> None:
        """Add the option for JSON."""
        parser.add_argument("--json", action="store_true", help="print one JSON object instead")

    def run(self, args: Namespace) -> int:
        """Print the checks; return 1 when one of them prevents tracing."""
        from tracer.host import checks, inspect

        host = inspect()
        findings = checks(host)
        if args.json:
            print(json.dumps(_as_json(host, findings), indent=2))
        else:
            _print_text(host, findings)
        return FAILED if any(check.status == "missing" for check in findings) else 0


def _as_json(host: Host, findings: list[Check]) -> dict[str, object]:
    return {
        "iophase": __version__,
        "host": host.as_dict(),
        "checks": [vars(check) for check in findings],
    }


def _print_text(host: Host, findings: list[Check]) -> None:
    cpus = f"{host.cpus} CPU{'s' if host.cpus > 1 else ''}"
    print(f"iophase {__version__} on Linux {host.kernel}, {host.arch}, {cpus}\n")
    colour = sys.stdout.isatty()
    for check in findings:
        status = f"{check.status:8}"
        if colour:
            status = f"{_COLOURS[check.status]}{status}\033[0m"
        print(f"  {status} {check.name:13} {check.detail}")
        if check.remedy:
            print(f"  {'':8} {'':13} -> {check.remedy}")
