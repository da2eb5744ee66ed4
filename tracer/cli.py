"""The frame of the command line: finds the verb, parses its arguments, turns errors into a line."""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, cast

from tracer.commands import VERBS, Command
from tracer.errors import FAILED, USAGE, IophaseError
from tracer.version import __version__

__all__ = ("build_parser", "main")

_DESCRIPTION = """\
Measures with eBPF where a Linux server's time goes: waiting for data, or copying it."""

_EPILOG = """\
examples:
  iophase doctor                  what can be measured on this host
  sudo iophase run select epoll   two reference servers under load, traced and compared
  sudo iophase record -p 1234     trace a real program until Ctrl-C
  iophase report traces/*         the tables again, without root

'iophase VERB --help' explains a verb."""

_EXAMPLES = "Examples:"
_STDOUT, _STDERR = 1, 2
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line that says where the help is."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def _load(verb: str) -> Command:
    module = importlib.import_module(f"tracer.commands.{verb}")
    return cast(Command, getattr(module, verb.capitalize())())


def _help_texts(command: Command) -> tuple[str, str, str]:
    """Split a command's docstring into summary, description and examples."""
    lines = (type(command).__doc__ or "").strip().splitlines()
    indent = min((len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()), default=0)
    body, _, examples = "\n".join(line[indent:] for line in lines[1:]).partition(_EXAMPLES)
    summary = lines[0] if lines else ""
    description = f"{summary}\n\n{body.strip()}".strip()
    return summary, description, f"examples:\n{examples.strip(chr(10))}" if examples else ""


def build_parser(verbs: Sequence[str] = VERBS) -> argparse.ArgumentParser:
    """Return the parser of ``iophase`` with the named verbs; only their modules are imported."""
    parser = _Parser(
        prog="iophase",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"iophase {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)
    for verb in verbs:
        command = _load(verb)
        summary, description, epilog = _help_texts(command)
        subparser = subparsers.add_parser(
            verb,
            help=summary.rstrip("."),
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.prepare_parser(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def _unknown_verb(verb: str) -> IophaseError:
    from difflib import get_close_matches

    close = get_close_matches(verb, VERBS, n=1)
    advice = f"did you mean '{close[0]}'?" if close else f"the verbs are {', '.join(VERBS)}"
    return IophaseError(f"no verb '{verb}'; {advice}", USAGE)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    verb = argv[0] if argv and not argv[0].startswith("-") else None
    if verb is not None and verb not in VERBS:
        raise _unknown_verb(verb)
    parser = build_parser(VERBS if verb is None else (verb,))
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        verb_help = f"see 'iophase {args.verb} --help'"
        raise IophaseError(
            f"{args.verb}: no such argument: {' '.join(unknown)}; {verb_help}", USAGE
        )
    return args


def _leave_no_root_owned_caches() -> None:
    """Write no bytecode under sudo: it would belong to root inside the caller's checkout."""
    if os.geteuid() == 0 and "SUDO_UID" in os.environ:
        sys.dont_write_bytecode = True


def _open_what_is_closed() -> None:
    """Open the standard descriptors that the caller closed.

    The next file would get such a number, and what anybody prints, be it a trace or a map.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(_STDOUT, "w")
    sys.stderr = sys.stderr or os.fdopen(_STDERR, "w")


def _let_stdout_take_every_character() -> None:
    """Write a question mark for what its encoding has not: a bar, a name, an ellipsis."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _abandon_stdout() -> None:
    """Send what is still buffered nowhere, so that the interpreter's last flush cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``iophase`` with the given arguments and return the exit code of DESIGN.md."""
    _leave_no_root_owned_caches()
    _open_what_is_closed()
    _let_stdout_take_every_character()
    try:
        args = _parse(sys.argv[1:] if argv is None else argv)
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except IophaseError as error:
        print(f"iophase: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("iophase: interrupted", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # The reader of our output has gone, as in `iophase report DIR | head`: nobody to tell.
        _abandon_stdout()
        return FAILED
    except OSError as error:
        if (said := _of_the_users_making(error)) is None:
            raise
        print(f"iophase: {said}", file=sys.stderr)
        _abandon_stdout()
        return FAILED


def _of_the_users_making(error: OSError) -> str | None:
    """Say of an error what the user can do about it; None if it can only be a defect of ours."""
    if error.errno in _DISK_FULL:
        return f"cannot write {error.filename or 'the output'}: {error.strerror}; make room for it"
    if isinstance(error, PermissionError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; ask its owner, or name another place"
    if isinstance(error, FileNotFoundError) and error.filename is None:  # getcwd(2)
        return "the current directory is gone; change into another one"
    return None
