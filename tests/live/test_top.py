"""``iophase top`` on a reference server: what it draws is what happens."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from servers.load import Load, LoadOptions
from servers.models import by_name
from tests.live.command import loaded_programs, programs_of, wait_until
from tests.live.target import PATIENCE_S
from tracer.reference import ReferenceServer

pytestmark = pytest.mark.live

COLUMNS = 80
TOP = ("-m", "tracer", "top")


def top(*arguments: str) -> list[str]:
    command = [sys.executable, *TOP, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    lines = done.stdout.splitlines()
    assert all(len(line) <= COLUMNS for line in lines)
    return lines


@pytest.mark.parametrize(
    ("view", "heading", "row"),
    [("processes", "process", "epoll level"), ("connections", "remote", "127.0.0.1:")],
)
def test_a_busy_server_is_shown_with_its_model_losses_and_cost(
    view: str, heading: str, row: str
) -> None:
    options = LoadOptions(connections=3, duration=PATIENCE_S, rate=300)
    with ReferenceServer(by_name("epoll")) as server, Load(server.address, options) as load:
        load.connect()
        load.start()
        lines = top("-p", str(server.pid), "-n", "2", "--view", view)
    assert sum(line.startswith("iophase top") for line in lines) == 2
    last = lines[-lines[::-1].index(next(x for x in lines[::-1] if x.startswith("iophase"))) - 1 :]
    assert "lost 0 of" in last[1] and "own cost" in last[1]
    assert last[2].startswith(heading)
    assert row in last[3]


def test_an_idle_server_is_shown_as_asleep_and_recognised() -> None:
    with ReferenceServer(by_name("blocking")) as server:
        lines = top("-p", str(server.pid), "-n", "2")
    name, model, calls, received, unit, wait, *_ = lines[-2].split()[1:]
    assert (model, calls, received, unit) == ("blocking", "0", "0", "B"), name
    assert float(wait) > 95


class Terminal:
    """``top`` on a terminal of its own."""

    def __init__(self, descriptor: int, process: subprocess.Popen[bytes]) -> None:
        self._descriptor = descriptor
        self.process = process
        self.said = ""

    def until(self, text: str) -> None:
        """Read until it has shown this, or has ended."""
        limit = time.monotonic() + PATIENCE_S
        while text not in self.said:
            rest = max(0.0, limit - time.monotonic())
            assert select.select([self._descriptor], [], [], rest)[0], self.said
            try:
                self.said += os.read(self._descriptor, 65536).decode(errors="replace")
            except OSError:  # EIO: nobody has the other end open (pty(7))
                return

    def press(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())


@contextmanager
def on_a_terminal(
    *arguments: str, program: tuple[str, ...] = TOP, term: str = "xterm-256color"
) -> Iterator[Terminal]:
    """Yield the running command; afterwards the terminal must be as it was."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    before = termios.tcgetattr(theirs)
    with subprocess.Popen(
        [sys.executable, *program, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": term},
        start_new_session=True,
    ) as process:
        try:
            yield Terminal(ours, process)
            process.wait(PATIENCE_S)
        finally:
            process.kill()
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


ENDS: dict[str, Callable[[Terminal], object]] = {
    "q": lambda terminal: terminal.press("q"),
    "SIGINT": lambda terminal: terminal.process.send_signal(signal.SIGINT),
    "SIGTERM": lambda terminal: terminal.process.send_signal(signal.SIGTERM),
    "SIGHUP": lambda terminal: terminal.process.send_signal(signal.SIGHUP),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_terminal_is_as_it_was_however_it_ends(how: str) -> None:
    with ReferenceServer(by_name("epoll")) as server, on_a_terminal("-p", str(server.pid)) as top:
        top.until("1 process by calls/s")
        top.press("t")
        top.until("1 thread by calls/s")
        top.press("cl ")
        top.until("PAUSED")
        ENDS[how](top)
        top.until("\x1b[?1049l")  # the screen from before is back
        top.until("\x1b[?25h")  # and so is the cursor
    assert top.process.returncode == 0
    assert "Traceback" not in top.said


def test_a_terminal_that_cannot_move_its_cursor_gets_one_picture_below_the_other() -> None:
    with (
        ReferenceServer(by_name("epoll")) as server,
        on_a_terminal("-p", str(server.pid), "-n", "2", term="dumb") as top,
    ):
        for _ in range(2):
            top.until("q quit")
            picture, _, top.said = top.said.partition("q quit")
            assert "1 process by calls/s" in picture
            assert "\x1b" not in picture
    assert top.process.returncode == 0


FAILING = """
import sys
from tracer.cli import main
from tracer.live import view

def draw(state, groups, chosen, *more, draw=view.draw):
    if chosen.column == "tid":
        raise ValueError("no such colour")
    return draw(state, groups, chosen, *more)

view.draw = draw
sys.exit(main(["top", *sys.argv[1:]]))
"""


def test_an_error_in_drawing_is_one_line_on_a_terminal_as_it_was_and_nothing_is_left() -> None:
    failing = ("-c", FAILING)
    with (
        ReferenceServer(by_name("epoll")) as server,
        on_a_terminal("-p", str(server.pid), program=failing) as top,
    ):
        top.until("1 process by calls/s")
        attached = programs_of(top.process.pid)
        assert attached
        top.press("t")
        top.until("without drawing")
    assert top.process.returncode == 1
    _, _, after = top.said.partition("\x1b[?1049l")  # the screen from before is back
    [said] = [line for line in after.splitlines() if "iophase" in line]
    assert "iophase: top: cannot draw: ValueError('no such colour')" in said
    assert "Traceback" not in top.said
    wait_until(lambda: not attached & loaded_programs())


def test_an_output_that_has_no_bars_gets_question_marks() -> None:
    options = LoadOptions(connections=3, duration=PATIENCE_S, rate=300)
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    with ReferenceServer(by_name("epoll")) as server, Load(server.address, options) as load:
        load.connect()
        load.start()
        command = [sys.executable, *TOP, "-p", str(server.pid), "-n", "1"]
        done = subprocess.run(command, capture_output=True, env=ascii_only, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("ascii").splitlines()[-2].endswith("?")


def test_it_ends_with_what_it_watches() -> None:
    with ReferenceServer(by_name("epoll")) as server, on_a_terminal("-p", str(server.pid)) as top:
        top.until("1 process by calls/s")
        os.kill(server.pid, signal.SIGKILL)
        top.until("\x1b[?1049l")
    assert top.process.returncode == 0
