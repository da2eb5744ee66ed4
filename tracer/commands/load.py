"""``iophase load``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from tracer.errors import IophaseError

__all__ = ("Load",)


class Load:
    """Send messages to an echo server and check every reply.

    Without --rate it is a closed loop: each connection sends its next message when the reply is
    there. Ctrl-C stops and prints what came of it. Exits with 1 when a reply was wrong or missing.

    Examples:
      iophase load 127.0.0.1:8080                          10 connections for 5 s
      iophase load 127.0.0.1:8080 -c 4 --idle 1000         beside 1000 silent connections
      iophase load 127.0.0.1:8080 --rate 5000 --size 1024  open loop, 5000 messages/s
      iophase load 127.0.0.1:8080 --messages 7919 --json   exactly so many
    """

    def prepare_parser(self, parser: ArgumentParser) -> None:
        """Add the load generator's own arguments."""
        from servers.load import prepare_parser

        prepare_parser(parser)

    def run(self, args: Namespace) -> int:
        """Make the load and print what came of it."""
        from servers.load import LoadError, run_command

        try:
            return run_command(args)
        except LoadError as error:
            raise IophaseError(str(error), error.exit_code) from error
