"""``iophase models``."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servers.models import Model

__all__ = ("Models",)


class Models:
    """List the I/O models, with one line on each.

    For each model: the call in which its reference server waits, the call in which the data is
    copied, and what this host lacks to run it.

    Examples:
      iophase models
      iophase models --json        the same for a program
    """

    def prepare_parser(self, parser: ArgumentParser) -> None:
        """Add the option for JSON."""
        parser.add_argument("--json", action="store_true", help="print one JSON array instead")

    def run(self, args: Namespace) -> int:
        """Print the models, family by family."""
        from servers.models import MODELS

        if args.json:
            print(json.dumps([_as_json(model) for model in MODELS], indent=2))
        else:
            _print_text(MODELS)
        return 0


def _as_json(model: Model) -> dict[str, object]:
    return model._asdict() | {"missing": model.missing()}


def _print_text(models: tuple[Model, ...]) -> None:
    rows = [(model.name, model.waits_in, model.copies_in, model.summary) for model in models]
    titles = ("model", "waits in", "copies in", "")
    widths = [max(len(row[column]) for row in (titles, *rows)) for column in range(3)]
    print(_line(titles, widths))
    family = ""
    for model, row in zip(models, rows, strict=True):
        if model.family != family:
            family = model.family
            print(f"\n{family}")
        print(_line(row, widths))
        if (missing := model.missing()) is not None:
            print(f"    not on this host: {missing}")


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    padded = [f"{cell:{width}}" for cell, width in zip(cells, widths, strict=False)]
    return "  ".join(["", *padded, cells[-1]]).rstrip()
