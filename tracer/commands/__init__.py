"""One module per verb of ``iophase``, each with one class named after the verb.

A command's docstring is its help text: the first line says what the verb does, the paragraphs after
it are the description, and what follows ``Examples:`` is printed below the options. The modules
import nothing heavy at their top, because ``iophase --help`` reads them all.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Protocol

__all__ = ("VERBS", "Command")

VERBS = (
    "doctor", "models", "run", "record", "top", "report", "claims", "export", "serve", "load",
    "lab",
)  # fmt: skip
"""The verbs, in the order in which the help shows them."""


class Command(Protocol):
    """What a verb offers to the command line."""

    def prepare_parser(self, parser: ArgumentParser) -> None:
        """Add the verb's arguments to its parser."""

    def run(self, args: Namespace) -> int:
        """Do the work and return the exit code; raise ``IophaseError`` on failure."""
