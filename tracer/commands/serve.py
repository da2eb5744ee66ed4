"""``iophase serve``."""

from __future__ import annotations

import argparse
import sys
from argparse import ArgumentParser, Namespace

from tracer.errors import USAGE, IophaseError

__all__ = ("Serve",)


class Serve:
    """Run one reference server alone, until Ctrl-C.

    Prints 'listening on HOST:PORT', and at the end what it counted, as one line of JSON. What
    follows the model's name goes to its server: 'iophase serve epoll --help' lists its options.

    Examples:
      iophase serve epoll --port 8080      level-triggered epoll on 127.0.0.1:8080
      iophase serve select                 on a free port, which it prints
    """

    def prepare_parser(self, parser: ArgumentParser) -> None:
        """Add the model; everything after it belongs to the server."""
        parser.add_argument("model", metavar="MODEL", help="a name from 'iophase models'")
        parser.add_argument(
            "arguments",
            metavar="...",
            nargs=argparse.REMAINDER,
            help="--host, --port and the other options of that server",
        )

    def run(self, args: Namespace) -> int:
        """Become the server."""
        import runpy

        from servers.models import by_name

        try:
            model = by_name(args.model)
        except KeyError as error:
            raise IophaseError(f"{error.args[0]}; see 'iophase models'", USAGE) from None
        sys.argv = [f"iophase serve {model.name}", *args.arguments]
        runpy.run_module(model.module, run_name="__main__")
        return 0
