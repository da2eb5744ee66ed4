"""``iophase doctor``."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tracer.errors import FAILED, IophaseError
from tracer.terminal import coloured
from tracer.version import __version__

if TYPE_CHECKING:
    from tracer.host import Check, Host
    from tracer.outlook import Outlook

__all__ = ("Doctor",)

_COLOURS = {"ok": "\033[32m", "limited": "\033[33m", "missing": "\033[31m"}


class Doctor:
    """Say what can be measured on this host, and what is missing and why.

    Looks only: nothing is attached, mounted or changed. With the privileges to trace, it also says
    by which backend the probes would be attached, and which figures this kernel cannot give. Exits
    with 1 when nothing can be traced.

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
        possible = all(check.status != "missing" for check in findings)
        outlook = _look_ahead() if possible else None
        if args.json:
            print(json.dumps(_as_json(host, findings, outlook), indent=2))
        else:
            _print_checks(host, findings)
            if outlook is not None:
                _print_outlook(outlook)
        return 0 if possible else FAILED


def _look_ahead() -> Outlook:
    from probes.errors import ProbeError
    from tracer.outlook import look_ahead

    try:
        return look_ahead()
    except ProbeError as error:
        raise IophaseError(str(error)) from error


def _as_json(
    host: Host, findings: list[Check], outlook: Outlook | None
) -> dict[str, dict[str, Any] | list[dict[str, Any]] | str | None]:
    return {
        "iophase": __version__,
        "host": host.as_dict(),
        "checks": [asdict(check) for check in findings],
        "outlook": None if outlook is None else asdict(outlook),
    }


def _print_checks(host: Host, findings: list[Check]) -> None:
    cpus = f"{host.cpus} CPU{'s' if host.cpus > 1 else ''}"
    print(f"iophase {__version__} on Linux {host.kernel}, {host.arch}, {cpus}\n")
    colour = coloured()
    for check in findings:
        status = f"{check.status:8}"
        if colour:
            status = f"{_COLOURS[check.status]}{status}\033[0m"
        print(f"  {status} {check.name:13} {check.detail}")
        if check.remedy:
            print(f"  {'':8} {'':13} -> {check.remedy}")


def _print_outlook(outlook: Outlook) -> None:
    attached = len(outlook.with_backend())
    print(f"\nBackend: {outlook.backend}, with {attached} of {len(outlook.probes)} probes")
    for backend, reason in outlook.refused.items():
        print(f"  {backend:24} {reason}")
    print("\nAttach plan: nothing is attached for it")
    print(f"  {'probe':24} {'gives':11} {'since':7} attached by")
    for probe in outlook.probes:
        how = probe.backend or f"- ({probe.detail})"
        print(f"  {probe.name:24} {probe.phase:11} {probe.since:7} {how}")
        if probe.backend is None and probe.needed:
            lost = f"without it: {probe.without}"
            if probe.stand_in:
                lost = f"less exactly by {', '.join(probe.stand_in)}: {probe.without}"
            print(f"  {'':24} -> {lost}")
