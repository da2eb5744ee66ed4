"""``iophase top``."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from tracer.errors import IophaseError
from tracer.target_arguments import add_targets, seconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

    from tracer.live.state import TopState
    from tracer.live.view import View
    from tracer.stopping import Wish
    from tracer.targets import Targets

__all__ = ("Top",)

_KEY_WAIT_S = 0.1
_LINES_OF_A_PIPE = 40
_COLUMNS_OF_A_PIPE = 80


class Top:
    """Watch running programs live: their I/O models, waits, copies and connections.

    The same figures as of 'iophase record', added up over each interval; nothing is written. wait
    and copy are in % of the interval, of all threads of a line together, so they can exceed 100;
    p99 and longest are of the time from the arrival of data to the end of its copy. Losses are
    always in view, and what this command costs itself; the probes cost the traced program as in a
    recording.

    Keys: p processes, t threads, c connections; n, b, w, y, l sort by calls, bytes received, wait,
    copy, longest; space pauses, q or Ctrl-C ends.

    Examples:
      sudo iophase top --port 6379
      sudo iophase top --comm nginx
      sudo iophase top -p 1234 -i 5
      sudo iophase top -p 1234 -n 1 | cat          one interval, as plain text
    """

    def prepare_parser(self, parser: ArgumentParser) -> None:
        """Add targets and the interval."""
        add = parser.add_argument
        add("-i", "--interval", type=_interval, default=1.0, metavar="S", help="seconds (1)")
        add("-n", "--count", type=_count, metavar="N", help="end after so many intervals")
        add("--view", choices=("processes", "threads", "connections"), default="processes",
            help="what is a line, to begin with")  # fmt: skip
        add_targets(parser)

    def run(self, args: Namespace) -> int:
        """Trace and draw until the user has seen enough."""
        from rich.console import Console

        from tracer import privileges
        from tracer.live.state import TopState
        from tracer.session import attached_program
        from tracer.standing import submitting
        from tracer.stopping import stopping
        from tracer.targets import chosen, refused_text

        wanted = chosen(args, [])
        pids = wanted.find()
        if not pids and not wanted.wait:
            raise wanted.nothing()
        piped = not sys.stdout.isatty()
        console = Console(width=_COLUMNS_OF_A_PIPE if piped else None, highlight=False)
        with contextlib.ExitStack() as stack:
            wish = stack.enter_context(stopping())
            program = stack.enter_context(attached_program(submits=not pids or submitting(pids)))
            state = TopState(program)
            privileges.drop()
            with wish.heeded():
                state.start()
                stack.callback(state.stop)
                state.following.follow(pids)
                _watch(state, wanted, wish, args, console)
        for target in state.following.refused:
            print(f"iophase: {refused_text(**target)}; it was not traced", file=sys.stderr)
        return 0


def _interval(text: str) -> float:
    value = seconds(text)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text}: an interval is 0.1 to 3600 seconds")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}: not a number of intervals")
    return int(text)


class _Screen:
    """Draws the state: in place on a terminal, else (or on a dumb one) one below the other."""

    def __init__(self, state: TopState, view: View, console: Console, live: Live | None) -> None:
        self.view = view
        self._state = state
        self._console = console
        self._live = live
        self._began = time.monotonic()
        self._groups = state.groups(view.column)

    def turn(self) -> None:
        """Draw the next interval."""
        if not self.view.paused:
            self._groups = self._state.groups(self.view.column, remember=True)
        self._draw()

    def press(self, key: str) -> None:
        """Draw the same interval another way."""
        self.view = self.view.pressed(key)
        self._groups = self._state.groups(self.view.column)
        self._draw()

    def _draw(self) -> None:
        from tracer.live.view import draw

        size = (self._console.width, self._console.height if self._live else _LINES_OF_A_PIPE)
        elapsed = time.monotonic() - self._began
        try:
            picture = draw(self._state, self._groups, self.view, elapsed, size)
            if self._live:
                self._live.update(picture, refresh=True)
            else:
                self._console.print(picture)
        except BrokenPipeError:  # as in `iophase top | head`
            raise
        except Exception as error:  # a traceback on a screen that is being restored is lost
            raise IophaseError(
                f"top: cannot draw: {error!r}; 'iophase record' measures the same without drawing"
            ) from error


def _watch(state: TopState, wanted: Targets, wish: Wish, args: Namespace, console: Console) -> None:
    from rich.live import Live

    from tracer.live.keys import keys
    from tracer.live.view import VIEWS, View

    column = {"processes": VIEWS["p"], "threads": VIEWS["t"], "connections": VIEWS["c"]}[args.view]
    view = View(column, "l" if args.view == "connections" else "n")
    appearing = wanted.appearing()
    with contextlib.ExitStack() as stack:
        key = stack.enter_context(keys())
        live = None
        if console.is_terminal and not console.is_dumb_terminal:
            live = stack.enter_context(Live(console=console, screen=True, auto_refresh=False))
        screen = _Screen(state, view, console, live)
        left = args.count
        while left is None or left > 0:
            end = time.monotonic() + args.interval
            while (rest := end - time.monotonic()) > 0:
                pressed = key(min(rest, _KEY_WAIT_S))
                if pressed == "q" or wish.stop:
                    return
                if pressed:
                    screen.press(pressed)
                state.following.pick_up(appearing.look())
                if appearing.hidden is not None and not state.following.alive():
                    raise IophaseError(appearing.hidden)
            state.turn(keep=not screen.view.paused)
            screen.turn()
            left = left and left - 1
            if not wanted.wait and not state.following.alive():
                return
